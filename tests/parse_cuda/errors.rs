//! What can go wrong with devices, and what is left then.

use super::engine::{changed, faulty_from, saved};
use super::{differing, face, labelled, machine, names, on_devices, parse, parse_on_cpu, small, stderr};
use segface_codegen::passes::MemoryPlan;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STEMS: [&str; 6] = ["rgb", "grey", "rgba", "palette", "interlaced", "grey_alpha"];

fn photos() -> Vec<PathBuf> {
    STEMS.iter().map(|stem| small(&format!("{stem}.png"))).collect()
}

/// With an engine file instead of weights, and without a compiler.
fn parse_engine(cards: &str, device: &str, engine: &Path, out: &Path, photos: &[PathBuf]) -> Output {
    let mut command = without_compiler(on_devices(cards));
    command.args(["parse", "--device", device, "--no-overlay", "--threads", "2", "--weights"]).arg(engine);
    command.arg("--out").arg(out).args(photos).output().unwrap()
}

fn without_compiler(mut command: Command) -> Command {
    command.env("LD_LIBRARY_PATH", machine()).env_remove("SEGFACE_NVRTC").env_remove("CUDA_HOME");
    command.env_remove("CUDA_PATH").env_remove("VIRTUAL_ENV").env("HOME", "/nonexistent");
    command
}

/// Stems whose results are complete; there are no other files.
fn complete(out: &Path) -> Vec<String> {
    let found = names(out);
    let stems: Vec<String> = found.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect();
    let expected: Vec<String> =
        stems.iter().flat_map(|stem| [format!("{stem}.json"), format!("{stem}.labels.png")]).collect();
    assert_eq!(found, expected, "no half-written result and no temporary file");
    stems
}

/// A line of what was said that has all of `parts`.
fn says(output: &Output, parts: &[&str]) -> bool {
    stderr(output).lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn an_engine_file_needs_nothing_but_a_driver_also_on_a_small_card() {
    let folder = tempfile::tempdir().unwrap();
    let engine = saved(folder.path());
    let (device, cpu) = (folder.path().join("device"), folder.path().join("cpu"));
    let run = parse_engine("l4", "cuda", &engine, &device, &photos()[..2]);
    assert!(run.status.success(), "{}", stderr(&run));
    let files = photos();
    let files: Vec<&Path> = files[..2].iter().map(PathBuf::as_path).collect();
    assert!(parse_on_cpu(&cpu, &files, &["--no-overlay"]).status.success());
    STEMS[..2].iter().for_each(|stem| assert_eq!(differing(&device, &cpu, stem), 0));
    // The same program without that file.
    let run = parse(without_compiler(on_devices("l4")), "cuda", &device, &files, &[]);
    assert_eq!(run.status.code(), Some(1));
    assert!(says(&run, &["no NVRTC was found", "segface compile --cards"]), "{}", stderr(&run));
}

#[test]
fn without_a_driver_or_with_one_too_old_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, out) = (saved(folder.path()), folder.path().join("out"));
    let run = {
        let mut command = on_devices("h100");
        let library = folder.path().join("driver");
        fs::create_dir(&library).unwrap();
        // Also where a real one is installed: these come first and are none.
        ["libcuda.so", "libcuda.so.1"].iter().for_each(|name| fs::write(library.join(name), "none").unwrap());
        command.env("LD_LIBRARY_PATH", library);
        parse(command, "cuda", &out, &[&small("rgb.png")], &[])
    };
    assert_eq!(run.status.code(), Some(1));
    assert!(says(&run, &["no CUDA driver", "--device cpu"]), "{}", stderr(&run));
    let mut command = without_compiler(on_devices("h100"));
    command.env("PTXVM_DRIVER", "12.0").args(["parse", "--device", "cuda", "--weights"]).arg(&engine);
    let run = command.arg("--out").arg(&out).arg(small("rgb.png")).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(says(&run, &["H100", "CUDA 12.0", "update NVIDIA's driver", "UNSUPPORTED_PTX"]), "{}", stderr(&run));
    assert!(complete(&out).is_empty());
}

#[test]
fn a_card_that_the_engine_was_not_made_for_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let engine = changed(folder.path(), |file| file.images[0].0 = "compute_90".into());
    let run = parse_engine("h100,a100", "cuda:0,1", &engine, &folder.path().join("out"), &photos()[..1]);
    assert_eq!(run.status.code(), Some(1));
    assert!(says(&run, &["cuda:1", "compute_90", "A100", "--cards sm_80"]), "{}", stderr(&run));
}

#[test]
fn a_network_that_does_not_fit_and_a_photo_that_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arena = |bytes: usize| {
        let folder = folder.path();
        move || {
            changed(folder, |file| {
                file.program.memory = MemoryPlan { arena_bytes: bytes, ..file.program.memory.clone() }
            })
        }
    };
    let run = parse_engine("l4", "cuda", &arena(1 << 40)(), &out, &photos()[..1]);
    assert_eq!(run.status.code(), Some(1));
    assert!(
        says(&run, &["cuda:0 (NVIDIA L4)", "no room for 1099511627776 bytes of working memory"]),
        "{}",
        stderr(&run)
    );
    assert!(complete(&out).is_empty());

    // So much that one stream fits, and beside it small photos and none of 512x512.
    let weights: usize = super::engine::whole().program.constant_bytes();
    let engine = arena((22478 << 20) - weights - (1 << 20))();
    let mut files = photos()[..3].to_vec();
    files.insert(1, face("obama_face.jpg"));
    let run = parse_engine("l4", "cuda", &engine, &out, &files);
    assert_eq!(run.status.code(), Some(1));
    assert!(
        says(&run, &["obama_face.jpg", "cuda:0 (NVIDIA L4)", "no room", "a photo", "--device cpu"]),
        "{}",
        stderr(&run)
    );
    assert!(says(&run, &["1 of 4"]), "{}", stderr(&run));
    assert_eq!(complete(&out), ["grey", "rgb", "rgba"]);
}

#[test]
fn a_kernel_that_faults_ends_the_run_and_leaves_what_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    let engine = changed(folder.path(), |file| faulty_from(file, "compute_86", 3));
    let out = folder.path().join("out");
    let run = parse_engine("a6000", "cuda", &engine, &out, &photos());
    assert_eq!(run.status.code(), Some(1));
    assert!(says(&run, &["cuda:0 (NVIDIA RTX A6000)", "ILLEGAL_ADDRESS", ".png", "--device cpu"]), "{}", stderr(&run));
    assert!(says(&run, &["not done, because no device was left"]), "{}", stderr(&run));
    let (finished, labelled) = (complete(&out), labelled(&run));
    // The third launch may have been over when the fourth faulted, or not.
    assert!((1..=3).contains(&finished.len()), "{finished:?}");
    assert_eq!(finished.len(), labelled.len());
    assert!(says(&run, &[&format!("{} of 6", 6 - finished.len())]), "{}", stderr(&run));
}

#[test]
fn a_device_lost_in_the_middle_of_a_folder_leaves_the_rest_to_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let engine = changed(folder.path(), |file| faulty_from(file, "compute_86", 1));
    let (out, cpu) = (folder.path().join("out"), folder.path().join("cpu"));
    let run = parse_engine("a100,a6000", "cuda:0,1", &engine, &out, &photos());
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(
        says(&run, &["warning: cuda:1 (NVIDIA RTX A6000) was lost at", ".png", "ILLEGAL_ADDRESS"]),
        "{}",
        stderr(&run)
    );
    let mut expected = STEMS.map(str::to_owned);
    expected.sort();
    assert_eq!(complete(&out), expected);
    let labelled = labelled(&run);
    let on = |device: &str| labelled.iter().filter(|(_, found)| found == device).count();
    assert!(on("cuda:1") <= 1 && on("cuda:0") >= 5, "{labelled:?}");
    let files = photos();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    assert!(parse_on_cpu(&cpu, &files, &["--no-overlay"]).status.success());
    STEMS.iter().for_each(|stem| assert_eq!(differing(&out, &cpu, stem), 0));
}

#[cfg(unix)]
#[test]
fn a_full_disk_beside_a_device_is_an_error_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, out) = (saved(folder.path()), folder.path().join("out"));
    let mut command = without_compiler(on_devices("h100"));
    let program = command.get_program().to_owned();
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let mut shell = Command::new("sh");
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env_remove("SEGFACE_NVRTC");
    shell.args(["-c", script, "sh"]).arg(program);
    command = shell;
    command.args(["parse", "--device", "cuda", "--crop", "0,0,500,500", "--weights"]).arg(engine);
    let run =
        command.arg("--out").arg(&out).args([face("obama_face.jpg"), face("astronaut_face.png")]).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
    assert!(stderr(&run).contains("cannot write"), "{}", stderr(&run));
    assert!(!names(&out).iter().any(|name| name.ends_with(".tmp") || name.ends_with(".json")), "{:?}", names(&out));
}
