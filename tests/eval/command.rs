//! `segface eval` against the same evaluation written a second time, as plainly as possible: one image at a time, pixel by pixel, in f64.

use crate::finished::{json, stderr};
use crate::synthetic::{self, celeb_face, lapa_face};
use segface::data::{Dataset, Split};
use segface::image::decode_file;
use segface::parser::{Parser, Request, Target};
use segface::tensors::{self, Batch};
use segface::{Backbone, ModelSpec, Variant};
use segface_codegen::ir::Output;
use segface_codegen::plan::Precision;
use segface_kernels::image::{MEAN, STD};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output as Finished};

const SIDE: usize = 48;

fn eval(variant: &str, data: &Path, out: &Path, more: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    command.args(["eval", "--model", &format!("random:mobilenet/{variant}"), "--size", "48", "--precision", "f32"]);
    command.args(["--device", "cpu", "--data", &data.display().to_string(), "--out", &out.display().to_string()]);
    command.args(more).output().unwrap()
}

/// Pixels in the confusion matrix of a report.
fn counted(report: &Value) -> u64 {
    let rows = report["confusion"].as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap()).map(|n| n.as_u64().unwrap()).sum()
}

/// One image as the network is to see it, with truth and landmarks, all from the drawn face: no file is read.
struct Drawn {
    image: Vec<f32>,
    truth: Vec<u8>,
    points: Option<[[f32; 2]; 5]>,
}

fn normalised(photo: &[u8]) -> Vec<f32> {
    photo.iter().enumerate().map(|(i, &v)| (f32::from(v) / 255.0 - MEAN[i % 3]) / STD[i % 3]).collect()
}

/// Labels of one image by the logits command's way through the network, and a plain argmax.
fn labels(parser: &mut Parser, drawn: &Drawn) -> Vec<u8> {
    let batch = Batch { shape: [1, SIDE, SIDE], input: drawn.image.clone(), landmarks: drawn.points.map(|p| vec![p]) };
    let logits = tensors::run(parser, &batch, &[Output::Logits]).unwrap().remove(0);
    let pixels = SIDE * SIDE;
    assert_eq!(logits.data.len() % pixels, 0);
    let classes = logits.data.len() / pixels;
    let best = |pixel: usize| {
        let mut best = 0;
        for class in 1..classes {
            if logits.data[class * pixels + pixel] > logits.data[best * pixels + pixel] {
                best = class;
            }
        }
        best as u8
    };
    (0..pixels).map(best).collect()
}

/// Mean F1 without background, mean F1 of the classes that occur, IoU and accuracy means, pixel accuracy, from label maps.
fn plain_scores(truths: &[Vec<u8>], predictions: &[Vec<u8>], classes: usize) -> (Vec<f64>, [f64; 3]) {
    let pairs: Vec<(u8, u8)> = truths
        .iter()
        .flatten()
        .copied()
        .zip(predictions.iter().flatten().copied())
        .filter(|(truth, _)| *truth != 255)
        .collect();
    let count = |keep: &dyn Fn(usize, usize) -> bool| {
        pairs.iter().filter(|(t, p)| keep(usize::from(*t), usize::from(*p))).count() as f64
    };
    let mut f1 = Vec::new();
    let (mut iou, mut accuracy) = (0.0, 0.0);
    for class in 0..classes {
        let hit = count(&|t, p| t == class && p == class);
        let missed = count(&|t, p| t == class && p != class);
        let wrong = count(&|t, p| t != class && p == class);
        f1.push(hit / (hit + 0.5 * (missed + wrong)));
        iou += hit / (hit + missed + wrong).max(1.0) / classes as f64;
        accuracy += hit / (hit + missed).max(1.0) / classes as f64;
    }
    (f1, [count(&|t, p| t == p) / pairs.len() as f64, accuracy, iou])
}

fn same(what: &str, json: &Value, expected: f64) {
    match json.as_f64() {
        None => assert!(expected.is_nan(), "{what}: {json} instead of {expected}"),
        Some(ours) => assert!((ours - expected).abs() < 1e-12, "{what}: {ours} instead of {expected}"),
    }
}

/// Compares eval.json with the second implementation.
fn compare(report: &Value, variant: Variant, truths: &[Vec<u8>], predictions: &[Vec<u8>]) {
    let (f1, [pixel, accuracy, iou]) = plain_scores(truths, predictions, variant.classes().len());
    for (class, expected) in report["classes"].as_array().unwrap().iter().zip(&f1) {
        same(class["name"].as_str().unwrap(), &class["f1"], *expected);
    }
    assert_eq!(report["classes"].as_array().unwrap().len(), f1.len());
    same("pixel accuracy", &report["pixel_accuracy"], pixel);
    same("mean accuracy", &report["mean_accuracy"], accuracy);
    same("mean IoU", &report["mean_iou"], iou);
    same("mean F1", &report["mean_f1"], f1[1..].iter().sum::<f64>() / (f1.len() - 1) as f64);
    let present: Vec<f64> = f1[1..].iter().copied().filter(|f1| !f1.is_nan()).collect();
    same("mean F1 of present", &report["mean_f1_of_present"], present.iter().sum::<f64>() / present.len() as f64);
    let counted = counted(report);
    assert_eq!(counted, truths.iter().flatten().filter(|&&label| label != 255).count() as u64);
}

fn parser(variant: Variant) -> Parser {
    let name = format!("random:mobilenet/{variant}");
    let request =
        Request { model: Some(&name), size: Some([SIDE; 2]), precision: Some(Precision::F32), ..Request::default() };
    let parser = Parser::open(&request, Target::Cpu, 1).unwrap();
    assert_eq!(parser.model(), ModelSpec { backbone: Backbone::MobileNet, variant });
    parser
}

#[test]
fn the_numbers_are_those_of_a_second_implementation_for_any_batch_and_threads() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::celeb(&folder.path().join("data"));
    // Photos as large as the masks and the network's input: nothing is resized.
    for id in 0..10 {
        let photo = celeb_face(id).photo();
        synthetic::write_rgb(&root.join(format!("CelebA-HQ-img/{id}.jpg")), SIDE, SIDE, &photo);
    }
    let mut network = parser(Variant::Celeb);
    let ids = [4, 3, 2, 1, 0];
    let truths: Vec<Vec<u8>> = ids.iter().map(|&id| celeb_face(id).nineteen()).collect();
    let predictions: Vec<Vec<u8>> = ids
        .iter()
        .map(|&id| {
            let face = celeb_face(id);
            labels(&mut network, &Drawn { image: normalised(&face.photo()), truth: face.nineteen(), points: None })
        })
        .collect();
    let mut first: Option<Value> = None;
    for (batch, threads) in [("1", "1"), ("2", "2"), ("5", "1"), ("7", "3")] {
        let out = folder.path().join(format!("out{batch}"));
        let run = eval("celeb", &root, &out, &["--split", "train", "--batch", batch, "--threads", threads]);
        assert!(run.status.success(), "{}", stderr(&run));
        let mut report = json(&out.join("eval.json"));
        compare(&report, Variant::Celeb, &truths, &predictions);
        assert_eq!(report["images"], 5);
        report["seconds"] = Value::Null;
        assert_eq!(first.get_or_insert_with(|| report.clone()), &report, "batch {batch}, {threads} threads");
        if batch == "2" {
            let table = String::from_utf8_lossy(&run.stdout).into_owned();
            let percent = format!("{:.2}", 100.0 * report["classes"][2]["f1"].as_f64().unwrap());
            let line = table.lines().find(|line| line.starts_with("face ")).unwrap();
            assert_eq!(line.split_whitespace().nth(1), Some(&percent[..]), "{table}");
        }
    }
    // The worst come first, by a score of their own.
    let report = first.unwrap();
    let worst: Vec<(String, f64)> = report["worst"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| (image["name"].as_str().unwrap().to_owned(), image["mean_f1"].as_f64().unwrap()))
        .collect();
    let mut expected: Vec<(String, f64)> = (0..5)
        .map(|i| {
            let (f1, _) = plain_scores(&truths[i..=i], &predictions[i..=i], 19);
            let present: Vec<f64> = f1[1..].iter().copied().filter(|f1| !f1.is_nan()).collect();
            (ids[i].to_string(), present.iter().sum::<f64>() / present.len() as f64)
        })
        .collect();
    expected.sort_by(|a, b| a.1.total_cmp(&b.1));
    assert_eq!(worst.len(), 5);
    for ((name, score), (expected_name, expected_score)) in worst.iter().zip(&expected) {
        assert!(name == expected_name && (score - expected_score).abs() < 1e-12, "{worst:?} instead of {expected:?}");
    }
}

#[test]
fn lapa_is_warped_and_unwarped_and_what_is_to_be_ignored_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(&folder.path().join("data"));
    // Faces as large as the network's input.
    let numbers = [5u32, 6];
    let faces: Vec<synthetic::Face> = numbers.iter().map(|&number| synthetic::Face::new(number, SIDE, SIDE)).collect();
    let mut truths = Vec::new();
    for (number, face) in numbers.iter().zip(&faces) {
        let mut truth = face.eleven();
        truth[..100].fill(255);
        synthetic::write_rgb(&root.join(format!("val/images/{number:03}_0.jpg")), SIDE, SIDE, &face.photo());
        synthetic::write_grey(&root.join(format!("val/labels/{number:03}_0.png")), SIDE, SIDE, &truth);
        let points: String = face.landmarks106().iter().map(|[x, y]| format!("{x} {y}\n")).collect();
        fs::write(root.join(format!("val/landmarks/{number:03}_0.txt")), format!("106\n{points}")).unwrap();
        truths.push(truth);
    }
    let mut network = parser(Variant::Lapa);
    let predictions: Vec<Vec<u8>> = faces
        .iter()
        .zip(&truths)
        .map(|(face, truth)| {
            let all = face.landmarks106();
            let at = |i: usize| all[i].map(|v| v as f32);
            let middle = |a: usize, b: usize| [0, 1].map(|axis| (at(a)[axis] + at(b)[axis]) / 2.0);
            let points = [middle(74, 104), middle(83, 105), at(54), at(84), at(90)];
            let drawn = Drawn { image: normalised(&face.photo()), truth: truth.clone(), points: Some(points) };
            assert_eq!(drawn.truth.len(), SIDE * SIDE);
            labels(&mut network, &drawn)
        })
        .collect();
    let out = folder.path().join("out");
    let run = eval("lapa", &root, &out, &["--split", "val", "--batch", "3", "--threads", "2"]);
    assert!(run.status.success(), "{}", stderr(&run));
    compare(&json(&out.join("eval.json")), Variant::Lapa, &truths, &predictions);
    assert!(json(&out.join("eval.json"))["merged"].as_array().unwrap().is_empty());
}

#[test]
fn helen_has_merged_scores_and_a_network_of_the_same_classes_may_be_scored_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::helen(&folder.path().join("data"));
    for (variant, more) in [("helen", &[][..]), ("lapa", &["--dataset", "helen"])] {
        let out = folder.path().join(variant);
        let run = eval(variant, &root, &out, &[&["--split", "test", "--worst", "2"], more].concat());
        assert!(run.status.success(), "{}", stderr(&run));
        let report = json(&out.join("eval.json"));
        let names: Vec<&str> =
            report["merged"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["eyes", "brows", "mouth", "overall"]);
        assert_eq!((&report["variant"], &report["dataset"]), (&variant.into(), &"helen".into()));
        assert_eq!(report["worst"].as_array().unwrap().len(), 2);
        // From the matrix once more: both lips and the inner mouth as one.
        let count = |row: usize, column: usize| report["confusion"][row][column].as_f64().unwrap();
        let group = [7, 8, 9];
        let hits: f64 = group.iter().flat_map(|&r| group.map(|c| count(r, c))).sum();
        let truth: f64 = group.iter().flat_map(|&r| (0..11).map(move |c| (r, c))).map(|(r, c)| count(r, c)).sum();
        let predicted: f64 = group.iter().flat_map(|&c| (0..11).map(move |r| (r, c))).map(|(r, c)| count(r, c)).sum();
        same("mouth", &report["merged"][2]["f1"], 2.0 * hits / (truth + predicted));
    }
    let out = folder.path().join("celeb");
    let run = eval("celeb", &root, &out, &["--dataset", "helen"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("19 classes") && stderr(&run).contains("11 classes"), "{}", stderr(&run));
}

#[test]
fn pictures_are_written_and_sizes_that_are_no_multiple_of_four_work() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(&folder.path().join("data"));
    let out = folder.path().join("out");
    let run = eval("lapa", &root, &out, &["--split", "test", "--size", "50x45"]);
    // clap takes the last of two sizes only where it is told to; the first is the helper's.
    assert_eq!(run.status.code(), Some(2), "{}", stderr(&run));
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    command.args(["eval", "--model", "random:mobilenet/lapa", "--size", "50x45", "--device", "cpu", "--split", "test"]);
    let run = command.arg("--data").arg(&root).arg("--out").arg(&out).output().unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
    let report = json(&out.join("eval.json"));
    assert_eq!(report["size"], serde_json::json!([45, 50]));
    let counted = counted(&report);
    let dataset = Dataset::open(Variant::Lapa, &root, Split::Test).unwrap();
    assert!(counted <= 45 * 50 * 3 && counted > 45 * 50 * 3 - 30, "{counted} pixels of {}", dataset.len());
    for (name, least) in [("confusion.png", 11 * 40), ("worst.png", 4 * 45)] {
        let picture = decode_file(&out.join(name), 10_000_000).unwrap();
        assert!(picture.width > least && picture.height > 50, "{name}: {}x{}", picture.width, picture.height);
        let white = picture.pixels.chunks(3).filter(|pixel| pixel == &[255; 3]).count();
        assert!(white < picture.width * picture.height * 19 / 20, "{name} shows something");
    }
    assert_eq!(lapa_face(7).height, 80);
}

#[test]
fn what_is_wrong_with_the_data_ends_the_run_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = synthetic::lapa(&folder.path().join("data"));
    let out = folder.path().join("out");
    fs::write(root.join("test/labels/008_0.png"), "").unwrap();
    let run = eval("lapa", &root, &out, &["--split", "test", "--threads", "2"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("008_0.png: the file is empty"), "{}", stderr(&run));
    assert!(!out.join("eval.json").exists());
    let run = eval("lapa", &root.join("nowhere"), &out, &[]);
    assert!(stderr(&run).contains("nowhere: not found"), "{}", stderr(&run));
    fs::write(folder.path().join("file"), "").unwrap();
    let run = eval("lapa", &root, &folder.path().join("file/out"), &["--split", "val"]);
    assert!(stderr(&run).contains("cannot write"), "{}", stderr(&run));
}
