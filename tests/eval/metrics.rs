//! Metrics against the lines that the published validation printed for the same logits.

use crate::fixtures::Case;
use segface::Variant;
use segface::data::IGNORE;
use segface::eval::{Confusion, Scores};
use segface_kernels::image::argmax_labels;
use segface_kernels::{Context, Isa};
use serde_json::Value;
use std::path::Path;

/// Names of the published evaluation, in the order of classes.
const CELEB: [&str; 19] = [
    "background",
    "neck",
    "skin",
    "cloth",
    "l_ear",
    "r_ear",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "nose",
    "mouth",
    "l_lip",
    "u_lip",
    "hair",
    "eye_g",
    "hat",
    "ear_r",
    "neck_l",
];
const LAPA: [&str; 11] = ["background", "face_lr_rr", "lb", "rb", "le", "re", "nose", "ul", "im", "ll", "hair"];
const HELEN: [&str; 11] = ["bg", "face", "lb", "rb", "le", "re", "nose", "ulip", "imouth", "llip", "hair"];

/// The case's confusion matrix, image by image, and its truth and prediction.
fn confusion(variant: Variant) -> (Confusion, Vec<u8>, Vec<u8>) {
    let case = Case::open(&format!("metrics_{variant}.safetensors"));
    let classes = variant.classes().len();
    let (logits, (shape, truth)) = (case.f32("logits"), case.u8("gt"));
    let pixels = shape[1] * shape[2];
    let mut ctx = Context::new(2, Isa::best());
    let (mut all, mut predictions) = (Confusion::new(classes), Vec::new());
    for image in 0..shape[0] {
        let planes = &logits[image * classes * pixels..][..classes * pixels];
        let rows: Vec<f32> =
            (0..pixels).flat_map(|pixel| (0..classes).map(move |c| planes[c * pixels + pixel])).collect();
        let mut labels = vec![0; pixels];
        argmax_labels(&mut ctx, &rows, classes, &mut labels);
        let mut one = Confusion::new(classes);
        one.add(&truth[image * pixels..][..pixels], &labels);
        all.merge(&one);
        predictions.extend(labels);
    }
    (all, truth, predictions)
}

/// `name : value` lines of the published validation, IoUs before the ruler, F1s behind it.
fn published(variant: Variant) -> [Vec<(String, f64)>; 2] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pipeline/metrics_expected.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let lines: Vec<&str> = json[variant.name()].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let ruler = lines.iter().position(|line| line.starts_with("---")).unwrap();
    let pairs = |lines: &[&str]| {
        let pair = |line: &&str| {
            let (name, value) = line.split_once(" : ")?;
            Some((name.to_owned(), value.trim().parse().unwrap()))
        };
        lines.iter().filter_map(pair).collect()
    };
    [pairs(&lines[..ruler]), pairs(&lines[ruler..])]
}

fn close(name: &str, ours: f64, published: f64) {
    assert!((ours - published).abs() <= 1e-12 * published.abs().max(1.0), "{name}: {ours} instead of {published}");
}

#[test]
fn scores_are_the_published_ones_to_the_last_digits() {
    for (variant, names) in [(Variant::Celeb, &CELEB[..]), (Variant::Lapa, &LAPA), (Variant::Helen, &HELEN)] {
        let scores = Scores::new(&confusion(variant).0, variant);
        let [ious, f1s] = published(variant);
        let mut expected = ious.iter();
        let mut next = |name: &str| expected.by_ref().find(|(known, _)| known == name).unwrap().1 / 100.0;
        for (class, name) in scores.classes.iter().zip(names) {
            close(name, class.iou, next(name));
        }
        close("pixel accuracy", scores.pixel_accuracy, next("Pixel accuracy"));
        close("mean accuracy", scores.mean_accuracy, next("Mean accuracy"));
        close("mean IoU", scores.mean_iou, next("Mean IU"));

        let merged = scores.merged.iter().map(|group| (group.name, group.f1));
        let ours: Vec<(&str, f64)> =
            names.iter().copied().zip(scores.classes.iter().map(|class| class.f1)).chain(merged).collect();
        // The published code prints them in this order, the mean last.
        assert_eq!(ours.len() + 1, f1s.len());
        assert_eq!(scores.merged.is_empty(), variant != Variant::Helen);
        for ((name, ours), (published_name, value)) in ours.iter().zip(&f1s) {
            assert_eq!(name, published_name);
            close(name, *ours, *value);
        }
        close("mean F1", scores.mean_f1, f1s.last().unwrap().1);
        close("mean F1", scores.mean_f1_of_present, scores.mean_f1);
    }
}

#[test]
fn every_pixel_but_the_ignored_is_counted_once_in_its_place() {
    for variant in Variant::ALL {
        let (confusion, truth, prediction) = confusion(variant);
        let classes = variant.classes().len();
        let mut counts = vec![vec![0u64; classes]; classes];
        let mut ignored = 0;
        for (&truth, &prediction) in truth.iter().zip(&prediction) {
            match truth {
                IGNORE => ignored += 1,
                _ => counts[usize::from(truth)][usize::from(prediction)] += 1,
            }
        }
        assert!(ignored > 0);
        assert_eq!(confusion.rows().map(<[u64]>::to_vec).collect::<Vec<_>>(), counts);
        assert_eq!(confusion.total() + ignored, truth.len() as u64);
    }
}

#[test]
fn a_class_that_occurs_nowhere_makes_the_mean_unknown_but_not_that_of_the_others() {
    let mut confusion = Confusion::new(11);
    // Background, two parts half right, one found that is not there.
    confusion.add(&[0, 0, 1, 1, 2, 2, IGNORE], &[0, 3, 1, 1, 2, 0, 9]);
    let scores = Scores::new(&confusion, Variant::Lapa);
    assert!(scores.mean_f1.is_nan());
    let expected = (1.0 + 2.0 / 3.0 + 0.0) / 3.0;
    assert!((scores.mean_f1_of_present - expected).abs() < 1e-15);
    assert!(scores.classes[9].f1.is_nan() && scores.classes[9].iou == 0.0 && scores.classes[9].accuracy == 0.0);
    // (1/3 + 1 + 1/2) / 11.
    assert!((scores.mean_iou - 1.0 / 6.0).abs() < 1e-15);
    assert!((scores.pixel_accuracy - 4.0 / 6.0).abs() < 1e-15);
    assert!(serde_json::to_value(&scores).unwrap()["mean_f1"].is_null());
    let mut table = Vec::new();
    scores.write_table(&mut table).unwrap();
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("neither in truth nor in prediction: lefteye, righteye, "), "{table}");
}
