//! The bar on the terminal.

use super::Recipe;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What is shown while a run goes on.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Whether to say at all what happens.
    shown: bool,
    epochs: u64,
    images_per_step: f64,
    /// What the arithmetic peak allows.
    most: Option<f64>,
    /// The last steps' rate, and when it was measured at which step.
    rate: f64,
    mark: (Instant, u64),
}

impl Progress {
    /// A bar at `step`; none where standard error is no terminal, or nothing is to be shown.
    pub(super) fn new(recipe: &Recipe, step: u64, shown: bool, most: Option<f64>) -> Self {
        let template = "{bar:30} {msg}, {pos}/{len} steps, {eta} left";
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(
            Some(recipe.steps()),
            if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let bar = bar.with_style(style).with_position(step);
        // What was done before a resume says nothing about the speed.
        bar.reset_eta();
        Self {
            bar,
            shown,
            epochs: recipe.epochs,
            images_per_step: (recipe.replicas * recipe.batch) as f64,
            most,
            rate: 0.0,
            mark: (Instant::now(), step),
        }
    }

    /// A step was taken.
    pub(super) fn step(&mut self, step: u64, epoch: u64, loss: f64) {
        let since = self.mark.0.elapsed();
        if self.rate == 0.0 || since > Duration::from_secs(2) {
            self.rate = (step - self.mark.1) as f64 * self.images_per_step / since.as_secs_f64();
            self.mark = (Instant::now(), step);
        }
        let share = self.most.map(|most| format!(" ({:.0} % of peak)", 100.0 * self.rate / most));
        let (epoch, epochs, share) = (epoch + 1, self.epochs, share.unwrap_or_default());
        self.bar.set_message(format!("epoch {epoch}/{epochs}, loss {loss:.4}, {:.1} images/s{share}", self.rate));
        self.bar.set_position(step);
    }

    /// An epoch ended.
    pub(super) fn epoch(&mut self, epoch: u64, loss: f64) {
        self.say(&format!("epoch {}/{}: loss {loss:.4}, {:.1} images/s", epoch + 1, self.epochs, self.rate));
    }

    /// The network was scored.
    pub(super) fn validated(&mut self, epoch: u64, f1: f64) {
        self.say(&format!("epoch {}/{}: mean F1 {:.2} on the validation split", epoch + 1, self.epochs, 100.0 * f1));
    }

    fn say(&self, line: &str) {
        if self.shown {
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
