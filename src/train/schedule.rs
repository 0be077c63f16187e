//! Learning rates over a run.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::str::FromStr;

/// How the learning rate falls, as a factor on the one the run starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It does not.
    Constant,
    /// A tenth from each of these epochs on (torch's MultiStepLR with γ = 0.1); the published run's are 80 and 200.
    MultiStep(Vec<u64>),
    /// Half a cosine over all steps of the run, down to nothing.
    Cosine,
}

impl FromStr for Decay {
    type Err = String;

    /// `constant`, `cosine`, or epochs like `80,200`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "constant" => return Ok(Decay::Constant),
            "cosine" => return Ok(Decay::Cosine),
            _ => {}
        }
        let epochs: Option<Vec<u64>> = text.split(',').map(|part| part.trim().parse().ok()).collect();
        match epochs {
            Some(epochs) if epochs.is_sorted_by(|a, b| a < b) => Ok(Decay::MultiStep(epochs)),
            _ => Err(format!("`{text}` is no schedule; expected rising epochs like 80,200, or cosine, or constant")),
        }
    }
}

/// The learning rate of every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest rate.
    pub learning_rate: f64,
    /// How it falls.
    pub decay: Decay,
    /// Steps over which it rises from nothing, on a straight line; the fall is counted from the first step all the same.
    pub warmup: u64,
}

impl Schedule {
    /// The rate at `step` (from 0) of a run of `total` steps, `per_epoch` of which are an epoch.
    pub fn at(&self, step: u64, per_epoch: u64, total: u64) -> f64 {
        let factor = match &self.decay {
            Decay::Constant => 1.0,
            Decay::MultiStep(epochs) => {
                let passed = epochs.iter().filter(|&&epoch| step >= epoch.saturating_mul(per_epoch)).count();
                // As torch has it: one multiplication at each of them.
                (0..passed).fold(1.0, |factor, _| factor * 0.1)
            }
            Decay::Cosine => 0.5 * (1.0 + (PI * step as f64 / total.max(1) as f64).cos()),
        };
        let rise = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        self.learning_rate * factor * rise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: &str, warmup: u64) -> Schedule {
        Schedule { learning_rate: 1e-4, decay: decay.parse().unwrap(), warmup }
    }

    #[test]
    fn the_published_schedule_falls_at_the_start_of_epochs_80_and_200() {
        let published = schedule("80,200", 0);
        let at = |epoch: u64, step: u64| published.at(epoch * 7 + step, 7, 300 * 7);
        for (epoch, step, expected) in [
            (0, 0, 1e-4),
            (79, 6, 1e-4),
            (80, 0, 1e-4 * 0.1),
            (199, 6, 1e-4 * 0.1),
            (200, 0, 1e-4 * (0.1 * 0.1)),
            (299, 6, 1e-4 * (0.1 * 0.1)),
        ] {
            assert_eq!(at(epoch, step), expected, "epoch {epoch} step {step}");
        }
    }

    #[test]
    fn a_cosine_ends_near_nothing_and_a_warm_up_starts_there() {
        let cosine = schedule("cosine", 10);
        let rates: Vec<f64> = (0..1000).map(|step| cosine.at(step, 100, 1000)).collect();
        assert!((rates[0] - 1e-5).abs() < 1e-12 && (rates[4] - 0.5e-4).abs() < 1e-8);
        assert!(rates[..10].is_sorted() && rates[10..].is_sorted_by(|a, b| a > b));
        assert!((rates[500] - 0.5e-4).abs() < 1e-12 && rates[999] < 1e-9 && rates[999] > 0.0);
        assert_eq!(schedule("constant", 0).at(5, 1, 1), 1e-4);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "linear", "80,", "200,80", "80,80", "-1", "1.5"] {
            assert!(text.parse::<Decay>().is_err_and(|message| message.contains("80,200")), "{text}");
        }
    }
}
