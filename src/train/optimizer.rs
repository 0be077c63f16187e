//! What a step does with the gradients: AdamW over what is trained, and moving averages.

use super::{Engine, Layout, Recipe, Role};
use segface_kernels::Context;
use segface_kernels::adamw::{AdamWOperands, AdamWSpec, clip_factor, cpu};
use std::ops::Range;

/// Moments of AdamW, beside which lie the parameters they move.
pub(super) struct Optimizer {
    /// m and v, in the order of the layout.
    pub(super) moments: [Vec<f32>; 2],
    ranges: Vec<Range<usize>>,
}

impl Optimizer {
    /// Moments of a run's start.
    pub(super) fn new(layout: &Layout) -> Self {
        let zeros = || vec![0.0; layout.parameters_len()];
        Self { moments: [zeros(), zeros()], ranges: layout.trained_ranges() }
    }

    /// Euclidean norm of all gradients that count; not finite if one of them is not.
    pub(super) fn norm(&self, ctx: &mut Context, gradients: &[f32]) -> f64 {
        let squares = self.ranges.iter().map(|range| cpu::norm(ctx, &gradients[range.clone()]).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// Moves the parameters by gradients of Euclidean norm `norm`. Steps are counted from 1.
    pub(super) fn step(
        &mut self,
        ctx: &mut Context,
        recipe: &Recipe,
        step: u64,
        learning_rate: f64,
        norm: f64,
        engine: &mut dyn Engine,
    ) {
        let spec = AdamWSpec {
            learning_rate,
            betas: recipe.betas,
            eps: recipe.eps,
            weight_decay: recipe.weight_decay,
            step,
            gradient_scale: recipe.clip.map_or(1.0, |most| clip_factor(norm, most)),
        };
        let [first, second] = &mut self.moments;
        let (parameters, gradients) = engine.parameters_and_gradients();
        for range in &self.ranges {
            let operands = AdamWOperands {
                gradients: &gradients[range.clone()],
                parameters: &mut parameters[range.clone()],
                first_moments: &mut first[range.clone()],
                second_moments: &mut second[range.clone()],
            };
            cpu::adamw(ctx, &spec, operands);
        }
    }
}

/// Moving averages of parameters and of the statistics of batch norms.
pub(super) struct Average {
    /// `keep` of the recipe.
    keep: f64,
    /// Averages of parameters and buffers.
    pub(super) values: [Vec<f32>; 2],
}

impl Average {
    /// Averages that start from what is there.
    pub(super) fn new(keep: f64, engine: &dyn Engine) -> Self {
        Self { keep, values: [engine.parameters().to_vec(), engine.buffers().to_vec()] }
    }

    /// Takes in the values after step number `step` (from 1). The first steps count more, so that the start is soon forgotten: the share
    /// that is kept is (1 + step)/(10 + step) until that exceeds the recipe's.
    pub(super) fn update(&mut self, step: u64, engine: &dyn Engine) {
        let keep = self.keep.min((1 + step) as f64 / (10 + step) as f64);
        let take = (1.0 - keep) as f32;
        let [parameters, buffers] = &mut self.values;
        let towards = |average: &mut [f32], values: &[f32]| {
            for (average, value) in average.iter_mut().zip(values) {
                *average += take * (value - *average);
            }
        };
        towards(parameters, engine.parameters());
        let now = engine.buffers();
        for entry in engine.layout().buffers() {
            let (average, now) = (&mut buffers[entry.range.clone()], &now[entry.range.clone()]);
            match entry.role {
                Role::Statistic => towards(average, now),
                _ => average.copy_from_slice(now),
            }
        }
    }
}
