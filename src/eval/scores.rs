//! Numbers from a confusion matrix, as the published evaluation computes them.

use super::Confusion;
use segface_codegen::Variant;
use serde::Serialize;
use std::io::{self, Write};

/// Scores of one class, from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassScore {
    /// Class id.
    pub id: usize,
    /// Class name.
    pub name: &'static str,
    /// `2·TP/(truth + predicted)`; NaN (null in JSON) for a class that occurs in neither.
    pub f1: f64,
    /// `TP/(truth + predicted − TP)`; 0 for such a class, as published.
    pub iou: f64,
    /// `TP/truth`; 0 where the class does not occur, as published.
    pub accuracy: f64,
    /// Pixels of the class.
    pub truth_pixels: u64,
    /// Pixels labelled as the class.
    pub predicted_pixels: u64,
}

/// F1 of several classes taken as one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MergedScore {
    /// What they make up together.
    pub name: &'static str,
    /// The classes.
    pub classes: Vec<&'static str>,
    /// As [`ClassScore::f1`]; confusing them with each other counts as right.
    pub f1: f64,
}

/// Scores over a whole split, from 0 to 1. The paper's tables give `mean_f1` times 100.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Mean F1 over all classes but the background. NaN (null in JSON) if one of them occurs neither in truth nor in prediction, as
    /// published.
    pub mean_f1: f64,
    /// The same over those that occur; what to look at on small sets.
    pub mean_f1_of_present: f64,
    /// Share of pixels with the right label.
    pub pixel_accuracy: f64,
    /// Mean of the classes' accuracies, background included.
    pub mean_accuracy: f64,
    /// Mean of the classes' IoUs, background included.
    pub mean_iou: f64,
    /// In the order of ids.
    pub classes: Vec<ClassScore>,
    /// Helen's eyes, brows, mouth and overall; not part of the means.
    pub merged: Vec<MergedScore>,
}

/// Groups that the literature on Helen reports.
const HELEN_GROUPS: [(&str, &[&str]); 4] = [
    ("eyes", &["lefteye", "righteye"]),
    ("brows", &["leftbro", "rightbro"]),
    ("mouth", &["upperlip", "innermouth", "lowerlip"]),
    ("overall", &["lefteye", "righteye", "leftbro", "rightbro", "nose", "upperlip", "innermouth", "lowerlip"]),
];

impl Scores {
    /// Scores of a matrix of a data set's classes.
    ///
    /// # Panics
    /// If it has another number of classes.
    pub fn new(confusion: &Confusion, dataset: Variant) -> Scores {
        let names = dataset.classes();
        assert_eq!(confusion.classes(), names.len(), "{dataset} has other classes");
        // An absent class divides by one instead of nothing, as published.
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let classes: Vec<ClassScore> = names
            .iter()
            .enumerate()
            .map(|(id, &name)| {
                let (truth, predicted, right) = (confusion.truth(id), confusion.predicted(id), confusion.right(id));
                ClassScore {
                    id,
                    name,
                    f1: confusion.f1(&[id]),
                    iou: share(right, truth + predicted - right),
                    accuracy: share(right, truth),
                    truth_pixels: truth,
                    predicted_pixels: predicted,
                }
            })
            .collect();
        let mean = |value: fn(&ClassScore) -> f64, from: usize| {
            classes[from..].iter().map(value).sum::<f64>() / (classes.len() - from) as f64
        };
        let groups: &[(&str, &[&str])] = if dataset == Variant::Helen { &HELEN_GROUPS } else { &[] };
        let merged = groups.iter().map(|&(name, members)| {
            let ids: Vec<usize> = (0..names.len()).filter(|&id| members.contains(&names[id])).collect();
            MergedScore { name, classes: ids.iter().map(|&id| names[id]).collect(), f1: confusion.f1(&ids) }
        });
        Scores {
            mean_f1: mean(|class| class.f1, 1),
            mean_f1_of_present: confusion.mean_f1_of_present().unwrap_or(f64::NAN),
            pixel_accuracy: (0..names.len()).map(|id| confusion.right(id)).sum::<u64>() as f64
                / confusion.total() as f64,
            mean_accuracy: mean(|class| class.accuracy, 0),
            mean_iou: mean(|class| class.iou, 0),
            merged: merged.collect(),
            classes,
        }
    }

    /// Writes the scores as a table, in per cent.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let total = self.classes.iter().map(|class| class.truth_pixels).sum::<u64>().max(1) as f64;
        let percent = |value: f64| if value.is_nan() { "-".into() } else { format!("{:.2}", 100.0 * value) };
        let row = |out: &mut dyn Write, name: &str, cells: [String; 5]| {
            let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>9}")).collect();
            writeln!(out, "{}", format!("{name:<12}{}", cells.concat()).trim_end())
        };
        row(out, "class", ["F1", "IoU", "accuracy", "truth", "predicted"].map(String::from))?;
        for class in &self.classes {
            let share = |pixels: u64| percent(pixels as f64 / total);
            let cells = [percent(class.f1), percent(class.iou), percent(class.accuracy)];
            let [f1, iou, accuracy] = cells;
            row(out, class.name, [f1, iou, accuracy, share(class.truth_pixels), share(class.predicted_pixels)])?;
        }
        let short = |f1: f64| [percent(f1), String::new(), String::new(), String::new(), String::new()];
        for group in &self.merged {
            row(out, group.name, short(group.f1))?;
        }
        let means = [percent(self.mean_f1), percent(self.mean_iou), percent(self.mean_accuracy)];
        let [f1, iou, accuracy] = means;
        row(out, "mean", [f1, iou, accuracy, String::new(), String::new()])?;
        let absent: Vec<&str> = self.classes[1..].iter().filter(|c| c.f1.is_nan()).map(|c| c.name).collect();
        if !absent.is_empty() {
            writeln!(
                out,
                "mean F1 over the classes that occur: {}; neither in truth nor in prediction: {}",
                percent(self.mean_f1_of_present),
                absent.join(", ")
            )?;
        }
        writeln!(
            out,
            "pixel accuracy {}; all numbers in per cent, mean F1 without background",
            percent(self.pixel_accuracy)
        )
    }
}
