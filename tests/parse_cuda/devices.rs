//! Several devices, and which ones.

use super::{differing, labelled, names, on_devices, parse, parse_on_cpu, small, stderr};
use segface::tensors::{NamedTensor, write_tensors};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn two_devices_share_the_photos_and_make_the_same_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let stems = ["rgb", "grey", "rgba", "palette", "interlaced"];
    let photos = stems.map(|stem| small(&format!("{stem}.png")));
    let photos: Vec<&Path> = photos.iter().map(|photo| photo.as_path()).collect();
    let (shared, cpu) = (folder.path().join("shared"), folder.path().join("cpu"));
    assert!(parse_on_cpu(&cpu, &photos, &[]).status.success());
    for device in ["cuda:0,1", "cuda:all"] {
        let run = parse(on_devices("h100,a100"), device, &shared, &photos, &[]);
        assert!(run.status.success(), "{}", stderr(&run));
        let labelled = labelled(&run);
        assert_eq!(labelled.len(), stems.len(), "{}", stderr(&run));
        let devices: BTreeSet<&str> = labelled.iter().map(|(_, device)| device.as_str()).collect();
        assert_eq!(devices, BTreeSet::from(["cuda:0", "cuda:1"]), "{labelled:?}");
        assert_eq!(names(&shared), names(&cpu));
        for stem in stems {
            differing(&shared, &cpu, stem);
        }
    }
}

#[test]
fn only_the_devices_that_are_named_work() {
    let folder = tempfile::tempdir().unwrap();
    for (device, used) in [("cuda", "cuda:0"), ("cuda:1", "cuda:1")] {
        let run = parse(on_devices("h100,a100"), device, folder.path(), &[&small("rgb.png")], &["--no-overlay"]);
        assert!(run.status.success(), "{}", stderr(&run));
        let labelled = labelled(&run);
        assert_eq!(labelled, [("rgb.png".to_owned(), used.to_owned())]);
    }
}

#[test]
fn devices_that_are_not_there_or_too_old_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let photo = small("rgb.png");
    let run = parse(on_devices("h100"), "cuda:0,5", folder.path(), &[&photo], &[]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("no CUDA device 5"), "{}", stderr(&run));
    let run = parse(on_devices("t4,h100"), "cuda:0,1", folder.path(), &[&photo], &[]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("Tesla T4") && stderr(&run).contains("7.5"), "{}", stderr(&run));
    // All that can.
    let run = parse(on_devices("t4,h100"), "cuda:all", folder.path(), &[&photo], &[]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stderr(&run).contains("cuda:0 is not used"), "{}", stderr(&run));
    let run = parse(on_devices("h100"), "cuda:x", folder.path(), &[&photo], &[]);
    assert_eq!(run.status.code(), Some(2), "wrong usage");
}

#[test]
fn what_runs_on_one_device_refuses_several() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("input.safetensors"), folder.path().join("output.safetensors"));
    let tensor = NamedTensor { name: "input".into(), shape: vec![1, 3, 64, 64], data: vec![0.0; 3 * 64 * 64] };
    write_tensors(&input, &[tensor]).unwrap();
    let mut command = on_devices("h100,a100");
    command.arg("logits").arg(&input).arg("-o").arg(&output).args(["--device", "cuda:0,1", "--precision", "f32"]);
    let run = command.output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("this runs on one device"), "{}", stderr(&run));
    assert!(!output.exists());
}
