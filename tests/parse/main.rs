//! `segface parse` as a user runs it: files, exit codes, and what is left behind when something fails.
//!
//! The network has random weights and a small input: what it finds means nothing, that it is found everywhere does.

#[path = "../finished.rs"]
mod finished;

use finished::{json, names, stderr};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn photo(name: &str) -> PathBuf {
    root().join("fixtures/images").join(name)
}

/// A run with a small random network of a label set.
fn parse_with(variant: &str, arguments: &[&dyn AsRef<Path>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    command.args(["parse", "--model", &format!("random:mobilenet/{variant}"), "--size", "64", "--threads", "1"]);
    command.args(["--precision", "f32", "--device", "cpu"]);
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    command.output().unwrap()
}

fn parse(arguments: &[&dyn AsRef<Path>]) -> Output {
    parse_with("celeb", arguments)
}

#[test]
fn one_photo_gives_three_files_and_exit_code_0() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/out");
    let run = parse(&[&photo("orientation_6.jpg"), &"--out", &out]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert_eq!(names(&out), ["orientation_6.json", "orientation_6.labels.png", "orientation_6.overlay.png"]);
    let summary = json(&out.join("orientation_6.json"));
    assert_eq!((&summary["width"], &summary["height"]), (&37.into(), &29.into()));
    assert_eq!(summary["model"]["variant"], "celeb");
    assert_eq!(summary["model"]["input"], serde_json::json!([64, 64]));
    let classes = summary["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 19);
    assert_eq!(classes.iter().map(|class| class["pixels"].as_u64().unwrap()).sum::<u64>(), 37 * 29);
    assert!(summary["timings_ms"]["network"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_folder_with_bad_files_is_done_but_for_those_and_exit_code_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for name in ["rgb.png", "grey.jpg", "cmyk_adobe.jpg", "rgba_16bit.png", "alpha_lossy.webp"] {
        fs::copy(photo(name), photos.join(name)).unwrap();
    }
    fs::write(photos.join("empty.jpg"), "").unwrap();
    fs::write(photos.join("text.png"), "not a photo").unwrap();
    fs::write(photos.join("cut.png"), &fs::read(photo("rgb.png")).unwrap()[..900]).unwrap();
    fs::write(photos.join("notes.txt"), "ignored").unwrap();
    let out = folder.path().join("out");
    let run = parse(&[&photos, &"--out", &out, &"--no-overlay", &folder.path().join("*.gif")]);
    assert_eq!(run.status.code(), Some(1));
    let said = stderr(&run);
    for (file, reason) in
        [("empty.jpg", "0 bytes"), ("text.png", "not a photo"), ("cut.png", "PNG"), ("*.gif", "no file matches")]
    {
        assert!(said.lines().any(|line| line.contains(file) && line.contains(reason)), "{file}: {said}");
    }
    assert!(said.contains("4 of 9"), "{said}");
    assert!(!said.contains("notes.txt"), "{said}");
    let stems = ["alpha_lossy", "cmyk_adobe", "grey", "rgb", "rgba_16bit"];
    let expected: Vec<String> =
        stems.iter().flat_map(|stem| [format!("{stem}.json"), format!("{stem}.labels.png")]).collect();
    assert_eq!(names(&out), expected);
    assert!(String::from_utf8_lossy(&run.stdout).contains("5 photos"));
}

#[test]
fn the_same_photo_stored_in_any_direction_gets_the_same_labels() {
    let folder = tempfile::tempdir().unwrap();
    let run = parse(&[
        &photo("orientation_6.png"),
        &photo("orientation_8.webp"),
        &photo("rgb.png"),
        &"--out",
        &folder.path(),
    ]);
    assert!(run.status.success(), "{}", stderr(&run));
    let labels = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(labels("orientation_6.labels.png") == labels("rgb.labels.png"));
    assert!(labels("orientation_8.labels.png") == labels("rgb.labels.png"));
}

#[test]
fn an_output_folder_that_cannot_be_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let run = parse(&[&photo("rgb.png"), &"--out", &folder.path().join("file/out")]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("cannot write"), "{}", stderr(&run));
    assert_eq!(names(folder.path()), ["file"]);
}

/// A file size limit stands in for a full disk: writing past it fails in the same call.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec '{}' parse --model random:mobilenet/celeb --size 64 --threads 1 --device cpu \
         --crop 0,0,500,500 --out '{}' '{}'",
        env!("CARGO_BIN_EXE_segface"),
        folder.path().join("out").display(),
        root().join("examples/obama.jpg").display()
    );
    let run = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
    assert!(stderr(&run).contains("cannot write"), "{}", stderr(&run));
    let left = names(&folder.path().join("out"));
    assert!(left.iter().all(|name| name == "obama.labels.png"), "{left:?}");
    assert!(!left.iter().any(|name| name.ends_with(".tmp")), "{left:?}");
}

#[test]
fn lapa_models_say_that_they_need_landmarks_and_use_them() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let run = parse_with("lapa", &[&photo("rgb.png"), &"--out", &out]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("--landmarks"), "{}", stderr(&run));

    let points = folder.path().join("points.json");
    fs::write(&points, "[[12, 8], [22, 8], [17, 14], [14, 20], [20, 20]]").unwrap();
    let run = parse_with("lapa", &[&photo("rgb.png"), &"--out", &out, &"--landmarks", &points]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert_eq!(json(&out.join("rgb.json"))["classes"].as_array().unwrap().len(), 11);

    let run = parse_with("lapa", &[&photo("rgb.png"), &photo("rgba.png"), &"--out", &out, &"--landmarks", &points]);
    assert!(stderr(&run).contains("one face"), "{}", stderr(&run));
    fs::write(&points, "1 2 3").unwrap();
    let run = parse_with("lapa", &[&photo("rgb.png"), &"--out", &out, &"--landmarks", &points]);
    assert!(stderr(&run).contains("points.json") && stderr(&run).contains("3 numbers"), "{}", stderr(&run));
}

#[test]
fn a_crop_is_labelled_in_place_and_wrong_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let run = parse(&[&photo("rgb.png"), &"--out", &out, &"--crop", &"5,6,20,10"]);
    assert!(run.status.success(), "{}", stderr(&run));
    let summary = json(&out.join("rgb.json"));
    assert_eq!(summary["crop"], serde_json::json!([5, 6, 20, 10]));
    for class in &summary["classes"].as_array().unwrap()[1..] {
        if let [x, y, width, height] = class["box"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let end = |a: &Value, b: &Value| a.as_u64().unwrap() + b.as_u64().unwrap();
            assert!(x.as_u64() >= Some(5) && y.as_u64() >= Some(6) && end(x, width) <= 25 && end(y, height) <= 16);
        }
    }
    let run = parse(&[&photo("rgb.png"), &"--out", &out, &"--crop", &"30,0,20,10"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("37x29"), "{}", stderr(&run));
    let run = parse(&[&photo("rgb.png"), &"--out", &out, &"--crop", &"face"]);
    assert_eq!(run.status.code(), Some(2), "wrong usage");
}

#[test]
fn more_pixels_than_allowed_need_to_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let run = parse(&[&photo("rgb.png"), &"--out", &folder.path(), &"--max-pixels", &"1000"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("--max-pixels"), "{}", stderr(&run));
}
