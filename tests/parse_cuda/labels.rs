//! The labels of the CPU.

use super::{album, differing, face, json, names, on_devices, parse, parse_on_cpu, small, stderr};
use std::collections::BTreeSet;
use std::fs;

#[test]
fn a_folder_of_many_sizes_with_a_broken_file_gets_the_labels_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let photos = [face("obama_face.jpg"), face("astronaut_face.png"), small("rgb.png"), small("orientation_6.jpg")];
    let album = album(folder.path(), &photos);
    fs::write(album.join("cut.png"), &fs::read(small("rgb.png")).unwrap()[..900]).unwrap();
    let (device, cpu) = (folder.path().join("device"), folder.path().join("cpu"));
    let run = parse(on_devices("h100"), "cuda", &device, &[&album], &[]);
    assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
    assert!(stderr(&run).lines().any(|line| line.contains("cut.png") && line.contains("PNG")), "{}", stderr(&run));
    assert!(stderr(&run).contains("1 of 5"), "{}", stderr(&run));
    assert_eq!(parse_on_cpu(&cpu, &[&album], &[]).status.code(), Some(1));
    assert_eq!(names(&device), names(&cpu));
    let stems = ["obama_face", "astronaut_face", "rgb", "orientation_6"];
    let counts = stems.map(|name| differing(&device, &cpu, name));
    eprintln!("labels that differ: {counts:?}");
    // A network that finds one class says nothing.
    let mut found = BTreeSet::new();
    for name in ["obama_face", "astronaut_face"] {
        let summary = json(&device.join(format!("{name}.json")));
        let classes = summary["classes"].as_array().unwrap().iter().enumerate();
        found.extend(classes.filter(|(_, class)| class["pixels"].as_u64() > Some(1000)).map(|(id, _)| id));
    }
    assert!(found.len() >= 4, "{found:?}");
    let timings = &json(&device.join("obama_face.json"))["timings_ms"];
    assert!(["decode", "prepare", "network", "labels", "encode"].iter().all(|part| timings[part].as_f64() > Some(0.0)));
}

#[test]
fn a_crop_is_labelled_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (device, cpu) = (folder.path().join("device"), folder.path().join("cpu"));
    let photo = face("obama_face.jpg");
    let more = ["--crop", "101,50,300,411"];
    let run = parse(on_devices("a100"), "cuda", &device, &[&photo], &more);
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(parse_on_cpu(&cpu, &[&photo], &more).status.success());
    assert_eq!(names(&device), names(&cpu));
    differing(&device, &cpu, "obama_face");
    assert_eq!(json(&device.join("obama_face.json"))["crop"], serde_json::json!([101, 50, 300, 411]));
    let (width, _, labels) = super::pixels(&device.join("obama_face.labels.png"));
    let outside = |index: &usize| {
        let (x, y) = (index % width as usize, index / width as usize);
        !(101..401).contains(&x) || !(50..461).contains(&y)
    };
    assert!((0..labels.len()).filter(outside).all(|index| labels[index] == 0));
    assert!(labels.iter().any(|&label| label != 0));
}

#[test]
fn faces_of_lapa_models_are_warped_by_their_landmarks() {
    let folder = tempfile::tempdir().unwrap();
    let points = folder.path().join("points.json");
    let text = r#"{"obama_face.jpg": [[190, 212], [320, 208], [262, 290], [205, 355], [318, 352]],
                   "rgb.png": [[12, 8], [22, 8], [17, 14], [14, 20], [20, 20]]}"#;
    fs::write(&points, text).unwrap();
    let (device, cpu) = (folder.path().join("device"), folder.path().join("cpu"));
    let photos = [face("obama_face.jpg"), small("rgb.png"), small("rgba.png")];
    let photos: Vec<_> = photos.iter().map(|photo| photo.as_path()).collect();
    let more = ["--model", "random:mobilenet/lapa", "--landmarks", points.to_str().unwrap(), "--no-overlay"];
    let run = parse(on_devices("h100"), "cuda", &device, &photos, &more);
    assert_eq!(run.status.code(), Some(1), "{}", stderr(&run));
    assert!(stderr(&run).contains("no entry `rgba.png`"), "{}", stderr(&run));
    assert_eq!(parse_on_cpu(&cpu, &photos, &more).status.code(), Some(1));
    assert_eq!(names(&device), ["obama_face.json", "obama_face.labels.png", "rgb.json", "rgb.labels.png"]);
    let counts = ["obama_face", "rgb"].map(|name| differing(&device, &cpu, name));
    eprintln!("labels that differ: {counts:?}");
    assert_eq!(json(&device.join("rgb.json"))["classes"].as_array().unwrap().len(), 11);
}

/// Copies, launches and the host in every order: what one stream or the host touches is nothing that another still works on.
#[test]
fn two_streams_and_the_host_do_not_get_into_each_others_way() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = on_devices("h100");
    command.env("PTXVM_MODE", "checked").env("PTXVM_EXIT_CODE", "9").env("PTXVM_LOG", "error");
    let photos = [small("rgb.png"), small("grey.png"), small("rgba.png")];
    let photos: Vec<_> = photos.iter().map(|photo| photo.as_path()).collect();
    let run = parse(command, "cuda", folder.path(), &photos, &[]);
    assert!(run.status.success(), "{}", stderr(&run));
    assert!(stderr(&run).contains("0 findings"), "{}", stderr(&run));
    assert_eq!(names(folder.path()).len(), 9);
}
