//! The library as programs of other languages meet it: a C program linked with `-lcuda` and a Python program with
//! nothing but ctypes, both in `ptxvm/tests/c_api`. Neither knows what is behind the driver API.
//!
//! `cargo xtask test` builds the library and says in `PTXVM_TEST_LIBRARY` where it is.
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command, Output},
    sync::OnceLock,
};

/// What a program printed, if it ended well.
fn finished(what: &str, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.ends_with("ok\n"), "{what}: {}\n{out}{err}", output.status);
    out.into_owned()
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/c_api")
}

fn library() -> PathBuf {
    let folder = env::var_os("PTXVM_TEST_LIBRARY").map(PathBuf::from);
    let folder = folder.expect("PTXVM_TEST_LIBRARY is not set: run `cargo xtask test -p ptxvm-libcuda`");
    assert!(folder.join("libcuda.so.1").exists(), "{} holds no libcuda.so.1", folder.display());
    folder
}

/// A program that finds the library, with none of the settings that the tests themselves may run under.
fn program(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PTXVM_")) {
        command.env_remove(name);
    }
    command.env("LD_LIBRARY_PATH", library());
    command
}

/// Compiles `files` with `options` to a program called `name`.
fn compiled(name: &str, files: &[&str], options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (unfinished, path) = (folder.join(format!("{name}-{}", process::id())), folder.join(name));
    let mut compiler = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&unfinished);
    compiler.args(files.iter().map(|file| sources().join(file))).arg("-L").arg(library()).args(options);
    let output = compiler.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &path).expect("a folder of our own");
    path
}

/// The C program, compiled once.
fn c_program() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let files = ["driver.c", "memory.c", "launch.c", "streams.c", "graphs.c", "faults.c"];
        compiled("driver", &files, &["-lcuda", "-lpthread"])
    })
}

fn c_with(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let mut command = program(c_program());
    command.arg(sources().join("kernels.ptx")).args(arguments).envs(settings.iter().copied());
    finished(&arguments.join(" "), &command.output().expect("starts"))
}

fn c(arguments: &[&str]) -> String {
    c_with(arguments, &[])
}

fn python(subject: &str) -> String {
    python_with(subject, &[])
}

fn python_with(subject: &str, settings: &[(&str, &str)]) -> String {
    let mut command = program("python3");
    command.arg("-B").arg(sources().join("driver.py")).arg(sources().join("kernels.ptx")).arg(subject);
    command.envs(settings.iter().copied());
    finished(subject, &command.output().expect("Python 3"))
}

#[test]
fn a_linked_program_asks_for_libcuda_so_1_and_the_library_exports_nothing_but_the_driver() {
    let linked = Command::new("readelf").arg("-d").arg(c_program()).output().expect("readelf of binutils");
    assert!(String::from_utf8_lossy(&linked.stdout).contains("[libcuda.so.1]"));
    let mut command = Command::new("nm");
    command.args(["-D", "--defined-only", "--format=posix"]).arg(library().join("libcuda.so.1"));
    let symbols = command.output().expect("nm of binutils");
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"cuInit") && names.contains(&"cuMemAlloc_v2"), "{symbols}");
    let others: Vec<_> = names.iter().filter(|name| !name.starts_with("cu")).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_program_with_functions_of_the_same_names_does_not_take_the_librarys_place() {
    let mut command = program(compiled("namesake", &["namesake.c"], &["-rdynamic", "-ldl"]));
    finished("namesake", &command.output().expect("starts"));
}

#[test]
fn errors_have_their_names_and_a_device_its_attributes() {
    c(&["devices"]);
}

#[test]
fn every_card_that_can_be_chosen_is_the_one_that_programs_see() {
    for (choice, shown) in [
        ("h100", "H100"),
        ("h100", ": 9.0, 132 multiprocessors, 232448 bytes"),
        ("a100", ": 8.0, 108 multiprocessors, 166912 bytes"),
        ("l4", ": 8.9, 58 multiprocessors, 101376 bytes"),
        ("rtx4090", ": 8.9, 128 multiprocessors, 101376 bytes"),
        ("a6000", ": 8.6, 84 multiprocessors, 101376 bytes"),
    ] {
        let out = c_with(&["devices"], &[("PTXVM_DEVICE", choice)]);
        assert!(out.contains(shown), "{choice}: {out}");
    }
}

#[test]
fn several_cards_have_memory_of_their_own_and_copy_to_each_other() {
    let out = c_with(&["several"], &[("PTXVM_DEVICE", "h100,a100")]);
    let place = |name| out.find(name).unwrap_or_else(|| panic!("{name}: {out}"));
    assert!(place("H100") < place("A100"), "{out}");
}

#[test]
fn contexts_are_retained_stacked_and_each_threads_own() {
    c(&["contexts"]);
}

#[test]
fn functions_are_found_by_name_and_version() {
    c(&["procs"]);
}

#[test]
fn memory_of_every_kind_is_copied_filled_and_guarded() {
    c(&["memory"]);
}

#[test]
fn modules_are_loaded_linked_and_refused_with_a_reason() {
    c(&["modules"]);
}

#[test]
fn kernels_are_launched_in_every_way_and_wrong_shapes_refused() {
    c(&["launches"]);
}

#[test]
fn what_a_kernel_prints_is_out_before_the_wait_for_it_ends() {
    let out = c(&["say"]);
    assert_eq!(out, "block 0 says 42\nwaited\nok\n");
}

#[test]
fn streams_and_events_are_asked_and_timed() {
    c(&["streams"]);
}

#[test]
fn streams_wait_for_each_other_as_the_manual_says() {
    c(&["order"]);
}

#[test]
fn any_order_that_a_seed_picks_keeps_the_rules() {
    for seed in 1..=10 {
        c_with(&["order"], &[("PTXVM_SEED", &seed.to_string())]);
    }
}

#[test]
fn graphs_are_captured_made_by_hand_updated_and_launched_again() {
    c(&["graphs"]);
}

#[test]
fn pools_hand_out_memory_in_the_order_of_a_stream() {
    c(&["pools"]);
}

#[test]
fn a_fault_stays_with_the_process() {
    for kind in ["nowhere", "misaligned", "freed", "trap"] {
        c(&["fault", kind]);
    }
}

#[test]
fn calls_are_answered_while_a_program_ends() {
    c(&["leaving"]);
}

#[test]
fn checked_mode_finds_nothing_in_programs_without_a_mistake() {
    for subject in ["memory", "modules", "launches", "streams", "order", "graphs", "pools", "leaving"] {
        let mut command = program(c_program());
        command.arg(sources().join("kernels.ptx")).arg(subject).env("PTXVM_MODE", "checked");
        let output = command.output().expect("starts");
        finished(subject, &output);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("ptxvm: 0 findings"), "{subject}:\n{said}");
    }
}

#[test]
fn checked_mode_says_what_was_left_in_a_context_that_is_destroyed_beside_others() {
    let mut command = program(c_program());
    command.arg(sources().join("kernels.ptx")).arg("contexts").env("PTXVM_MODE", "checked");
    let output = command.output().expect("starts");
    finished("contexts", &output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ptxvm: 1 finding (1 leak)"), "{said}");
}

#[test]
fn python_lists_devices() {
    assert!(python("devices").contains("multiprocessors"));
}

#[test]
fn python_runs_kernels() {
    python("kernels");
}

#[test]
fn python_functions_run_in_streams() {
    python("streams");
}

#[test]
fn python_captures_graphs() {
    python("graphs");
}

#[test]
fn python_threads_launch_at_once() {
    python("threads");
}

#[test]
fn python_sees_a_fault_stay() {
    python("fault");
}

#[test]
fn python_programs_keep_the_rules_in_any_order_that_a_seed_picks() {
    for seed in ["1", "2", "3"] {
        for subject in ["kernels", "streams", "graphs", "threads"] {
            python_with(subject, &[("PTXVM_SEED", seed)]);
        }
    }
}
