//! A run of some steps of a MobileNet by any engine, and by libtorch with an optimizer of its own.

use crate::common::{DRAWS, Problem};
use segface::train::{Draws, Engine};
use segface::weights::Weights;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::adamw::{AdamWOperands, AdamWSpec};
use segface_kernels::{Context, Isa};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The published recipe's optimizer.
fn recipe(step: u64) -> AdamWSpec {
    AdamWSpec { learning_rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-5, step, gradient_scale: 1.0 }
}

/// The batch of a step.
pub(crate) fn of_run(number: usize) -> Problem {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    // Four batches in turn, so that the losses fall.
    Problem { spec, batch: 2, side: 64, stochastic_depth: true, number: number % 4 }
}

fn draws(step: u64) -> Draws {
    Draws { step, ..DRAWS }
}

/// Losses of an engine that was made for [`of_run`].
pub(crate) fn own_losses(engine: &mut dyn Engine, steps: u64) -> Vec<f64> {
    let mut context = Context::new(2, Isa::best());
    let len = engine.layout().parameters_len();
    let ranges = engine.layout().trained_ranges();
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let mut losses = Vec::new();
    for step in 0..steps {
        engine.gradients_mut().fill(0.0);
        let batch = of_run(step as usize).batch();
        losses.push(engine.accumulate(&batch, draws(step), 1.0, &mut |_, _| {}).expect("a step").total());
        let (parameters, gradients) = engine.parameters_and_gradients();
        for range in &ranges {
            let operands = AdamWOperands {
                gradients: &gradients[range.clone()],
                parameters: &mut parameters[range.clone()],
                first_moments: &mut first[range.clone()],
                second_moments: &mut second[range.clone()],
            };
            segface_kernels::adamw::cpu::adamw(&mut context, &recipe(step + 1), operands);
        }
    }
    losses
}

/// libtorch's AdamW, operation by operation (torch/csrc/api/src/optim/adamw.cpp), on the model's tensors.
pub(crate) fn reference_losses(weights: &Weights, kind: Kind, steps: u64) -> Vec<f64> {
    let mut losses = Vec::new();
    let factor = of_run(0).factor(DRAWS);
    let model = of_run(0).model(weights, kind, &factor);
    let mut moments: BTreeMap<String, [Tensor; 2]> = BTreeMap::new();
    for step in 0..steps {
        let (loss, [cross_entropy, dice]) = of_run(step as usize).reference_loss(&model, kind);
        losses.push(0.5 * (cross_entropy + dice));
        loss.backward();
        let AdamWSpec { learning_rate, betas: [beta1, beta2], eps, weight_decay, step, .. } = recipe(step + 1);
        let _guard = tch::no_grad_guard();
        for (name, mut p) in model.tensors() {
            let mut g = p.grad();
            if !p.requires_grad() || !g.defined() {
                continue;
            }
            let [m, v] = moments.entry(name).or_insert_with(|| [p.zeros_like(), p.zeros_like()]);
            let _ = p.g_mul_scalar_(1.0 - learning_rate * weight_decay);
            let _ = m.g_mul_scalar_(beta1).g_add_(&(&g * (1.0 - beta1)));
            let _ = v.g_mul_scalar_(beta2).g_add_(&(&g * &g * (1.0 - beta2)));
            let denominator = v.sqrt() / (1.0 - beta2.powf(step as f64)).sqrt() + eps;
            let _ = p.g_sub_(&(&*m / denominator * (learning_rate / (1.0 - beta1.powf(step as f64)))));
            let _ = g.zero_();
        }
    }
    losses
}
