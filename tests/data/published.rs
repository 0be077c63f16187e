//! Samples against what the published loaders made of the same files.

use crate::fixtures::Case;
use crate::synthetic::{write_grey, write_rgb};
use segface::Variant;
use segface::data::{Affine, Augmentation, Dataset, Preparation, Split};
use segface::image::LabelMap;
use segface_kernels::{Context, Isa};
use std::fs;
use std::path::Path;

/// The cases' side.
const SIDE: usize = 192;

fn preparation() -> Preparation {
    Preparation { size: (SIDE, SIDE), augment: Augmentation::Nothing, seed: 0, warp: false }
}

fn contexts() -> impl Iterator<Item = Context> {
    Isa::available().map(|isa| Context::new(1, isa))
}

/// A LaPa folder with the case's one image.
fn lapa(case: &Case, root: &Path) -> Dataset {
    let (shape, raw) = case.u8("raw");
    let (height, width) = (shape[0], shape[1]);
    write_rgb(&root.join("train/images/a.jpg"), width, height, &raw);
    write_grey(&root.join("train/labels/a.png"), width, height, &case.u8("raw_label").1);
    let points: Vec<String> = case.f32("raw_landmarks").chunks(2).map(|p| format!("{} {}\n", p[0], p[1])).collect();
    fs::create_dir_all(root.join("train/landmarks")).unwrap();
    fs::write(root.join("train/landmarks/a.txt"), format!("106\n{}", points.concat())).unwrap();
    Dataset::open(Variant::Lapa, root, Split::Train).unwrap()
}

#[test]
fn lapa_samples_are_the_published_ones_bit_for_bit() {
    let case = Case::open("preproc_lapa_eval.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let dataset = lapa(&case, folder.path());
    for mut ctx in contexts() {
        let sample = preparation().sample(&mut ctx, &dataset, 0, 0).unwrap();
        assert!(sample.image == case.channels_last("image"), "image, {:?}", ctx.isa());
        assert!(sample.labels == case.labels("label"), "labels");
        assert_eq!(sample.points.as_flattened(), case.f32("lnm_seg"));
    }
}

#[test]
fn augmented_lapa_samples_are_the_published_ones() {
    let case = Case::open("preproc_lapa_train.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let dataset = lapa(&case, folder.path());
    let raw = dataset.read(0).unwrap();
    let (width, height) = (raw.photo.width, raw.photo.height);
    let mut ctx = Context::new(1, Isa::best());
    let mut cases = 0;
    for number in (0..4).filter(|number| case.has(&format!("params{number}"))) {
        let params = case.f64(&format!("params{number}"));
        let affine = Affine { degrees: params[0], scale: params[1], shift: [params[2], params[3]] };
        let mapped = affine.image(&raw.photo.pixels, width, height);
        assert!(mapped == case.u8(&format!("affine_u8_{number}")).1, "affine {number}");
        let sample = preparation().prepare(&mut ctx, &dataset, 0, raw.clone(), Some(affine)).unwrap();
        assert!(sample.image == case.channels_last(&format!("image{number}")), "image {number}");
        assert!(sample.labels == case.labels(&format!("label{number}")), "labels {number}");
        let points = case.f32(&format!("lnm_seg{number}"));
        for (ours, published) in sample.points.as_flattened().iter().zip(&points) {
            // Theirs come from a matrix product of f64, rounded once.
            assert!((ours - published).abs() <= 2.0 * f32::EPSILON * published.abs(), "{ours} instead of {published}");
        }
        cases += 1;
    }
    assert_eq!(cases, 2);
}

#[test]
fn helen_samples_are_the_published_ones_bit_for_bit() {
    let case = Case::open("preproc_helen.safetensors");
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    for number in 0..3 {
        let (shape, raw) = case.u8(&format!("raw{number}"));
        let (height, width) = (shape[0], shape[1]);
        let file = |ending: &str| folder.path().join(format!("test/{number}_{ending}"));
        write_rgb(&file("image.jpg"), width, height, &raw);
        write_grey(&file("label.png"), width, height, &case.u8(&format!("raw_label{number}")).1);
        let numbers: Vec<String> =
            case.f32(&format!("raw_landmarks68_{number}")).iter().map(|v| v.to_string()).collect();
        lines += &format!("{} {number}\n", numbers.join(" "));
    }
    fs::write(folder.path().join("landmarks.txt"), lines).unwrap();
    // Helen's validation split is its test split.
    let dataset = Dataset::open(Variant::Helen, folder.path(), Split::Val).unwrap();
    assert_eq!(dataset.len(), 3);
    for mut ctx in contexts() {
        for number in 0..3 {
            let sample = preparation().sample(&mut ctx, &dataset, 0, number).unwrap();
            assert!(sample.image == case.channels_last(&format!("image{number}")), "image {number}, {:?}", ctx.isa());
            assert!(sample.labels == case.labels(&format!("label{number}")), "labels {number}");
            assert_eq!(sample.points.as_flattened(), case.f32(&format!("lnm_seg{number}")), "points {number}");
        }
    }
}

#[test]
fn what_an_affine_map_does_to_labels_it_does_to_landmarks() {
    // Four pixels of classes of their own; where they land is where their centres are said to land.
    let (width, height) = (60, 50);
    let mut labels = vec![0; width * height];
    let places = [(20, 20), (40, 22), (25, 35), (33, 30)];
    for (class, (x, y)) in places.into_iter().enumerate() {
        labels[y * width + x] = class as u8 + 1;
    }
    let map = LabelMap { width, height, labels };
    for affine in [
        Affine { degrees: 0.0, scale: 3.0, shift: [0.0; 2] },
        Affine { degrees: 30.0, scale: 2.0, shift: [-3.0, 2.0] },
        Affine { degrees: -25.0, scale: 2.5, shift: [1.5, -4.0] },
    ] {
        let mapped = affine.labels(&map);
        for (class, (x, y)) in places.into_iter().enumerate() {
            let found: Vec<[f64; 2]> = (0..width * height)
                .filter(|&at| mapped.labels[at] == class as u8 + 1)
                .map(|at| [(at % width) as f64 + 0.5, (at / width) as f64 + 0.5])
                .collect();
            let expected = affine.point([x as f64 + 0.5, y as f64 + 0.5], width, height);
            if found.is_empty() {
                assert!(
                    expected[0] < 3.0 || expected[0] > 57.0 || expected[1] < 3.0 || expected[1] > 47.0,
                    "{affine:?}"
                );
                continue;
            }
            for axis in 0..2 {
                let mean = found.iter().map(|point| point[axis]).sum::<f64>() / found.len() as f64;
                assert!((mean - expected[axis]).abs() < 0.6, "{affine:?}: {mean} instead of {}", expected[axis]);
            }
        }
    }
}
