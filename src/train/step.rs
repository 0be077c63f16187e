//! One step of the optimizer: micro-batches, their sum over all replicas, the update.

use super::guard::{check_labels, not_finite};
use super::optimizer::{Average, Optimizer};
use super::{Draws, Engine, Group, Recipe, Role, RunOptions, TrainError};
use crate::Error;
use crate::data::{Batches, Dataset};
use segface_kernels::Context;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Takes steps.
pub(super) struct Stepper<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) engine: &'a mut dyn Engine,
    pub(super) group: &'a mut Group,
    pub(super) dataset: &'a Dataset,
    pub(super) optimizer: Optimizer,
    pub(super) average: Option<Average>,
    pub(super) ctx: Context,
    /// Whether gradients leave as soon as they are complete.
    overlap: bool,
    /// Says that the run is to stop.
    pub(super) stop: &'a AtomicBool,
    /// Where several micro-batches are one after another: their sum, and the statistics before them and their sum.
    sums: Option<Sums>,
}

#[derive(Default)]
struct Sums {
    gradients: Vec<f32>,
    before: Vec<f32>,
    statistics: Vec<f32>,
}

/// What a step was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stepped {
    pub(super) cross_entropy: f64,
    pub(super) dice: f64,
    pub(super) learning_rate: f64,
    pub(super) norm: f64,
    /// How long this process waited for images.
    pub(super) waited: Duration,
    /// Whether a process was told to stop.
    pub(super) stop: bool,
}

impl<'a> Stepper<'a> {
    pub(super) fn new(
        recipe: &'a Recipe,
        engine: &'a mut dyn Engine,
        group: &'a mut Group,
        dataset: &'a Dataset,
        options: &RunOptions,
        stop: &'a AtomicBool,
    ) -> Self {
        let optimizer = Optimizer::new(engine.layout());
        let average = recipe.ema.map(|keep| Average::new(keep, engine));
        let ctx = Context::new(options.threads, segface_kernels::Isa::best());
        let sums = (recipe.replicas > group.size()).then(Sums::default);
        let overlap = options.overlap;
        Self { recipe, engine, group, dataset, optimizer, average, ctx, overlap, stop, sums }
    }

    /// Micro-batches of this process in a step.
    pub(super) fn own(&self) -> usize {
        self.recipe.replicas / self.group.size()
    }

    /// Step number `step`, from 0.
    pub(super) fn step(&mut self, step: u64, batches: &mut Batches) -> Result<Stepped, Error> {
        let replicas = self.recipe.replicas;
        let mut waited = Duration::ZERO;
        let mut images = Vec::new();
        // Losses of all replicas, and whether somebody is to stop.
        let mut told = vec![0.0f64; 2 * replicas + 1];
        told[2 * replicas] = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        let own = self.own();
        for place in 0..own {
            let begin = Instant::now();
            let batch = batches.next();
            waited += begin.elapsed();
            let batch = batch.ok_or_else(|| TrainError::Options("the loader ended before the epoch did".into()))??;
            check_labels(&batch, self.dataset, self.recipe.resolution)?;
            let replica = self.group.rank() * own + place;
            let draws = Draws { seed: self.recipe.seed, step, micro_batch: replica as u32 };
            let loss = match self.sums {
                Some(_) => self.add(place, &batch, draws)?,
                None => self.only(&batch, draws)?,
            };
            told[2 * replica] = loss.cross_entropy;
            told[2 * replica + 1] = loss.dice;
            images.extend(batch.indices);
        }
        self.share()?;
        self.group.sum(&mut told)?;
        let mean = |part: usize| told[..2 * replicas].iter().skip(part).step_by(2).sum::<f64>() / replicas as f64;
        let (cross_entropy, dice) = (mean(0), mean(1));
        let norm = self.optimizer.norm(&mut self.ctx, self.engine.gradients());
        let loss = 0.5 * cross_entropy + 0.5 * dice;
        if !(loss.is_finite() && norm.is_finite()) {
            let found = not_finite(self.engine, loss);
            let (what, value) = found.unwrap_or_else(|| ("the norm of the gradient".into(), norm as f32));
            let images = images.iter().map(|&index| self.dataset.name(index)).collect::<Vec<_>>().join(", ");
            return Err(TrainError::NotFinite { what, value, step, images }.into());
        }
        let (per_epoch, total) = (self.recipe.steps_per_epoch(), self.recipe.steps());
        let learning_rate = self.recipe.schedule.at(step, per_epoch, total);
        self.optimizer.step(&mut self.ctx, self.recipe, step + 1, learning_rate, norm, self.engine);
        if let Some(average) = &mut self.average {
            average.update(step + 1, self.engine);
        }
        Ok(Stepped { cross_entropy, dice, learning_rate, norm, waited, stop: told[2 * replicas] > 0.0 })
    }

    fn scale(&self) -> f32 {
        1.0 / self.recipe.replicas as f32
    }

    /// A micro-batch that is all of this process's: its gradients leave as they become complete.
    fn only(&mut self, batch: &crate::data::Batch, draws: Draws) -> Result<super::Loss, Error> {
        self.engine.gradients_mut().fill(0.0);
        let scale = self.scale();
        let (group, overlap) = (&mut *self.group, self.overlap);
        let mut sent: Vec<Range<usize>> = Vec::new();
        let loss = self.engine.accumulate(batch, draws, scale, &mut |range, values| {
            if overlap {
                group.push(range.clone(), values);
                sent.push(range);
            }
        })?;
        for range in rest(&self.engine.layout().trained_ranges(), &mut sent) {
            self.group.push(range.clone(), &self.engine.gradients()[range]);
        }
        Ok(loss)
    }

    /// One of several: gradients are added up in order, and each starts from the same statistics, as if it were a process of its own. The
    /// sums leave as the last one's gradients become complete.
    fn add(&mut self, place: usize, batch: &crate::data::Batch, draws: Draws) -> Result<super::Loss, Error> {
        let (scale, last) = (self.scale(), place + 1 == self.own());
        let sums = self.sums.get_or_insert_default();
        if place == 0 {
            self.engine.buffers().clone_into(&mut sums.before);
        } else {
            self.engine.buffers_mut().copy_from_slice(&sums.before);
        }
        self.engine.gradients_mut().fill(0.0);
        let early = last && place > 0 && self.overlap && self.group.size() > 1;
        let group = &mut *self.group;
        let mut sent: Vec<Range<usize>> = Vec::new();
        let loss = self.engine.accumulate(batch, draws, scale, &mut |range, values| {
            if early {
                add(&mut sums.gradients[range.clone()], values);
                group.push(range.clone(), &sums.gradients[range.clone()]);
                sent.push(range);
            }
        })?;
        if place == 0 {
            self.engine.gradients().clone_into(&mut sums.gradients);
            self.engine.buffers().clone_into(&mut sums.statistics);
        } else {
            let all = 0..sums.gradients.len();
            for range in rest(std::slice::from_ref(&all), &mut sent) {
                add(&mut sums.gradients[range.clone()], &self.engine.gradients()[range]);
            }
            add(&mut sums.statistics, self.engine.buffers());
        }
        if last {
            self.engine.gradients_mut().copy_from_slice(&sums.gradients);
            for range in rest(&self.engine.layout().trained_ranges(), &mut sent) {
                self.group.push(range.clone(), &self.engine.gradients()[range]);
            }
        }
        Ok(loss)
    }

    /// Gradients become the sums of all replicas', statistics the means.
    fn share(&mut self) -> Result<(), TrainError> {
        self.group.finish(self.engine.gradients_mut())?;
        if self.recipe.replicas == 1 {
            return Ok(());
        }
        let statistics: Vec<Range<usize>> = self
            .engine
            .layout()
            .buffers()
            .iter()
            .filter(|entry| entry.role == Role::Statistic && entry.trained)
            .map(|entry| entry.range.clone())
            .collect();
        let own = self.sums.as_ref().map_or(self.engine.buffers(), |sums| &sums.statistics);
        let mut sums: Vec<f32> = statistics.iter().flat_map(|range| own[range.clone()].iter().copied()).collect();
        if self.group.size() > 1 {
            self.group.push(0..sums.len(), &sums);
            self.group.finish(&mut sums)?;
        }
        let scale = self.scale();
        let buffers = self.engine.buffers_mut();
        let mut at = 0;
        for range in statistics {
            for value in &mut buffers[range] {
                *value = sums[at] * scale;
                at += 1;
            }
        }
        Ok(())
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

/// What of `all` is in none of `taken`, in order. Puts `taken` in order, too.
fn rest(all: &[Range<usize>], taken: &mut [Range<usize>]) -> Vec<Range<usize>> {
    taken.sort_by_key(|range| range.start);
    let mut left = Vec::new();
    for range in all {
        let mut start = range.start;
        for taken in taken.iter().filter(|taken| taken.start < range.end && taken.end > range.start) {
            if taken.start > start {
                left.push(start..taken.start);
            }
            start = start.max(taken.end);
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_announced_is_sent_once() {
        assert_eq!(rest(&[0..10, 20..30], &mut []), [0..10, 20..30]);
        assert_eq!(rest(&[0..10, 20..30], &mut [22..30, 2..4, 0..1]), [1..2, 4..10, 20..22]);
        assert!(rest(&[0..10, 20..30], &mut [12..30, 0..12]).is_empty());
    }
}
