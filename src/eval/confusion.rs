//! The confusion matrix.

use crate::data::IGNORE;

/// How many pixels of each class got which label: rows are the truth, columns the prediction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    /// No pixel yet.
    pub fn new(classes: usize) -> Confusion {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// Counts pixels side by side. Pixels whose truth is [`IGNORE`] are left out.
    ///
    /// # Panics
    /// If the lengths differ, or a label is no class. Loaders give no such truth, networks no such prediction.
    pub fn add(&mut self, truth: &[u8], prediction: &[u8]) {
        assert_eq!(truth.len(), prediction.len(), "labels of two sizes");
        for (&truth, &prediction) in truth.iter().zip(prediction) {
            if truth != IGNORE {
                let (row, column) = (usize::from(truth), usize::from(prediction));
                assert!(
                    row < self.classes && column < self.classes,
                    "label {row} or {column} of {} classes",
                    self.classes
                );
                self.counts[row * self.classes + column] += 1;
            }
        }
    }

    /// Adds what another one counted.
    ///
    /// # Panics
    /// If it has another number of classes.
    pub fn merge(&mut self, other: &Confusion) {
        assert_eq!(self.classes, other.classes, "matrices of two sizes");
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Pixels of class `truth` that were labelled `prediction`.
    pub fn count(&self, truth: usize, prediction: usize) -> u64 {
        self.counts[truth * self.classes + prediction]
    }

    /// Row by row.
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.classes)
    }

    /// Pixels of a class.
    pub fn truth(&self, class: usize) -> u64 {
        (0..self.classes).map(|column| self.count(class, column)).sum()
    }

    /// Pixels labelled as a class.
    pub fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|row| self.count(row, class)).sum()
    }

    /// Pixels of a class that were labelled as it.
    pub fn right(&self, class: usize) -> u64 {
        self.count(class, class)
    }

    /// All pixels counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// F1 of several classes taken as one, in which confusing them with each other counts as right: `2·hits/(truth + predicted)`. NaN where
    /// they occur neither in truth nor in prediction.
    pub fn f1(&self, group: &[usize]) -> f64 {
        let hits: u64 = group
            .iter()
            .flat_map(|&row| group.iter().map(move |&column| (row, column)))
            .map(|(r, c)| self.count(r, c))
            .sum();
        let both: u64 = group.iter().map(|&class| self.truth(class) + self.predicted(class)).sum();
        2.0 * hits as f64 / both as f64
    }

    /// Mean F1 over the classes but the background that occur in truth or prediction; `None` where none does.
    pub fn mean_f1_of_present(&self) -> Option<f64> {
        let scores: Vec<f64> = (1..self.classes).map(|class| self.f1(&[class])).filter(|f1| !f1.is_nan()).collect();
        (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64)
    }
}
