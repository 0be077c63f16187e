//! A run over many photos, good and bad, with a network that is none.

use super::fixtures;
use crate::image::{
    AroundNetwork, DEFAULT_MAX_PIXELS, ImageError, Landmarks, ModelSummary, OutputNames, ParseOptions, PhotoSummary,
    Run, Take, parse_photos,
};
use segface_codegen::Variant;
use segface_kernels::{Context, Isa};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

const SIDE: usize = 32;

/// Class 2 where the input is reddish, else class 0.
fn by_redness(input: &[f32], take: &mut Take<'_>) -> Result<(), String> {
    let logits: Vec<f32> = input
        .chunks_exact(3)
        .flat_map(|p| {
            let mut values = [0f32; 19];
            values[2] = p[0] - p[2];
            values
        })
        .collect();
    take(&logits, (SIDE, SIDE));
    Ok(())
}

fn options() -> ParseOptions<'static> {
    ParseOptions {
        variant: Variant::Celeb,
        model: ModelSummary {
            weights: "none".into(),
            backbone: "mobilenet".into(),
            variant: "celeb".into(),
            input: [SIDE, SIDE],
            precision: "f32".into(),
        },
        crop: None,
        landmarks: None,
        max_pixels: DEFAULT_MAX_PIXELS,
        overlay: true,
        isa: Isa::best(),
        helpers: 1,
    }
}

/// A run with a network that is none.
fn run(
    files: &[PathBuf],
    names: &[OutputNames],
    options: &ParseOptions<'_>,
    network: impl FnMut(&[f32], &mut Take<'_>) -> Result<(), String> + Send,
) -> Run {
    let ctx = Context::new(2, options.isa);
    let labeller = AroundNetwork::new(network, "nowhere", options.variant.classes().len(), ctx);
    parse_photos(files, names, options, vec![labeller], &|_, _| ())
}

fn sample(name: &str) -> PathBuf {
    fixtures::path(&format!("images/{name}"))
}

fn ids(path: &Path) -> Vec<u8> {
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(path).unwrap())).read_info().unwrap();
    let mut ids = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut ids).unwrap();
    ids
}

#[test]
fn good_photos_are_done_and_bad_ones_named() {
    let folder = tempfile::tempdir().unwrap();
    let (broken, empty) = (folder.path().join("broken.jpg"), folder.path().join("empty.png"));
    fs::write(&broken, &fs::read(sample("progressive.jpg")).unwrap()[..500]).unwrap();
    fs::write(&empty, "").unwrap();
    let files = [
        sample("rgb.png"),
        broken,
        sample("grey.jpg"),
        empty,
        folder.path().join("missing.jpg"),
        sample("orientation_6.jpg"),
    ];
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let names = OutputNames::for_photos(&out, &files);
    let heard = Mutex::new(0);
    let labeller = AroundNetwork::new(by_redness, "nowhere", 19, Context::new(2, Isa::best()));
    let outcomes =
        parse_photos(&files, &names, &options(), vec![labeller], &|_, _| *heard.lock().unwrap() += 1).outcomes;
    assert_eq!(*heard.lock().unwrap(), 6);
    assert!(outcomes.iter().map(|(file, _)| file).eq(&files), "the order of the arguments");
    let [good, cut, grey, none, missing, turned] = &outcomes[..] else { panic!("six") };
    assert!(matches!(cut.1, Err(ImageError::Truncated { .. } | ImageError::Damaged { .. })));
    assert!(matches!(none.1, Err(ImageError::Empty)));
    assert!(matches!(missing.1, Err(ImageError::Read(_))));

    let summary = good.1.as_ref().unwrap();
    assert_eq!((summary.width, summary.height), (37, 29));
    let labels = ids(&names[0].labels);
    assert_eq!(labels.len(), 37 * 29);
    assert_eq!(summary.classes[2].pixels, labels.iter().filter(|&&l| l == 2).count());
    assert!(summary.classes[2].pixels > 100);
    let stored: serde_json::Value = serde_json::from_slice(&fs::read(&names[0].summary).unwrap()).unwrap();
    assert_eq!(stored, serde_json::to_value(summary).unwrap());
    assert!(grey.1.as_ref().unwrap().warnings[0].contains("background"));
    assert_eq!((turned.1.as_ref().unwrap().width, turned.1.as_ref().unwrap().height), (37, 29));

    // Three files for each good photo, none for a bad one, no temporary ones.
    assert_eq!(fs::read_dir(&out).unwrap().count(), 9);
}

#[test]
fn without_overlay_and_with_crop() {
    let folder = tempfile::tempdir().unwrap();
    let files = [sample("rgb.png")];
    let names = OutputNames::for_photos(folder.path(), &files);
    let options = ParseOptions { overlay: false, crop: Some("4,5,20,10".parse().unwrap()), ..options() };
    let outcomes = run(&files, &names, &options, by_redness).outcomes;
    let summary = outcomes[0].1.as_ref().unwrap();
    assert_eq!(summary.crop, Some([4, 5, 20, 10]));
    let [x, y, width, height] = summary.classes[2].bounds.unwrap();
    assert!(x >= 4 && y >= 5 && x + width <= 24 && y + height <= 15);
    assert!(!names[0].overlay.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_run_stops_when_results_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a_file");
    fs::write(&out, "").unwrap();
    let files = vec![sample("rgb.png"); 12];
    let names = OutputNames::for_photos(&out, &files);
    let outcomes = run(&files, &names, &options(), by_redness).outcomes;
    assert!(matches!(&outcomes[0].1, Err(ImageError::Write { path, .. }) if *path == names[0].labels));
    assert!(outcomes[1..].iter().all(|(_, result)| matches!(result, Err(ImageError::NotDone))));
}

#[test]
fn an_error_of_the_only_network_ends_the_run_and_keeps_what_was_done() {
    let folder = tempfile::tempdir().unwrap();
    let files = vec![sample("rgb.png"); 8];
    let names = OutputNames::for_photos(folder.path(), &files);
    let mut calls = 0;
    let run = run(&files, &names, &options(), |input, take| {
        calls += 1;
        if calls == 3 { Err("out of order".into()) } else { by_redness(input, take) }
    });
    assert_eq!(calls, 3);
    let results: Vec<_> = run.outcomes.iter().map(|(_, result)| result).collect();
    assert!(results[..2].iter().all(|result| result.is_ok()));
    assert!(
        matches!(results[2], Err(ImageError::DeviceLost { devices, reason }) if devices == "nowhere" && reason == "out of order")
    );
    assert!(results[3..].iter().all(|result| matches!(result, Err(ImageError::NoDeviceLeft))));
    assert_eq!(run.lost.len(), 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2 * 3);
}

#[test]
fn landmarks_are_used_by_networks_that_warp_and_only_by_those() {
    let folder = tempfile::tempdir().unwrap();
    let files = [sample("rgb.png"), sample("rgba.png")];
    let names = OutputNames::for_photos(folder.path(), &files);
    let landmarks = Landmarks::parse("{\"rgb.png\": [[22, 8], [12, 8], [17, 14], [20, 20], [14, 20]]}").unwrap();
    let eleven = |input: &[f32], take: &mut Take<'_>| {
        take(&vec![0f32; input.len() / 3 * 11], (SIDE, SIDE));
        Ok(())
    };
    let lapa = ParseOptions { variant: Variant::Lapa, landmarks: Some(&landmarks), ..options() };
    let outcomes = run(&files, &names, &lapa, eleven).outcomes;
    let with: &PhotoSummary = outcomes[0].1.as_ref().unwrap();
    assert!(with.warnings.iter().any(|w| w.contains("mirrored")), "{:?}", with.warnings);
    assert!(matches!(&outcomes[1].1, Err(ImageError::NoLandmarks { name }) if name == "rgba.png"));
    let helen = ParseOptions { variant: Variant::Helen, ..lapa };
    let outcomes = run(&files, &names, &helen, eleven).outcomes;
    assert!(outcomes.iter().all(|(_, result)| result.is_ok()));
}
