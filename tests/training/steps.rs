//! Runs of some steps: the same weights, batches and optimizer in our engine and in libtorch.

use crate::common::{DRAWS, Problem};
use segface::train::{Draws, Engine};
use segface::weights::{Weights, seeded};
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::adamw::{AdamWOperands, AdamWSpec};
use segface_kernels::{Context, Isa};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

const STEPS: u64 = 20;

/// The published recipe's optimizer.
fn recipe(step: u64) -> AdamWSpec {
    AdamWSpec {
        learning_rate: 1e-4,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 1e-5,
        step,
        gradient_scale: 1.0,
    }
}

fn problem(number: usize) -> Problem {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    // Four batches in turn, so that the losses fall.
    Problem { spec, batch: 2, side: 64, stochastic_depth: true, number: number % 4 }
}

fn draws(step: u64) -> Draws {
    Draws { step, ..DRAWS }
}

fn ours(weights: &Weights) -> Vec<f64> {
    let mut engine = problem(0).engine(weights, 2);
    let mut context = Context::new(2, Isa::best());
    let len = engine.layout().parameters_len();
    let ranges = engine.layout().trained_ranges();
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let mut losses = Vec::new();
    for step in 0..STEPS {
        engine.gradients_mut().fill(0.0);
        let batch = problem(step as usize).batch();
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
fn reference(weights: &Weights, kind: Kind) -> Vec<f64> {
    let mut losses = Vec::new();
    let factor = problem(0).factor(DRAWS);
    let model = problem(0).model(weights, kind, &factor);
    let mut moments: BTreeMap<String, [Tensor; 2]> = BTreeMap::new();
    for step in 0..STEPS {
        let (loss, [cross_entropy, dice]) = problem(step as usize).reference_loss(&model, kind);
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

#[test]
fn losses_of_twenty_steps_follow_libtorchs_within_the_envelope_of_f32() {
    let weights = seeded(problem(0).spec);
    let own = ours(&weights);
    let truth = reference(&weights, Kind::Double);
    let peer = reference(&weights, Kind::Float);
    let mut envelope = 0.0f64;
    for step in 0..own.len() {
        let (error, peers) = ((own[step] - truth[step]).abs(), (peer[step] - truth[step]).abs());
        envelope = envelope.max(peers);
        println!("step {step:2}: {:.6}, ours {error:.2e} off, libtorch f32 {peers:.2e}", truth[step]);
    }
    let worst = |errors: &[f64]| errors.iter().zip(&truth).map(|(e, t)| (e - t).abs()).fold(0.0f64, f64::max);
    assert!(truth[STEPS as usize - 1] < truth[0], "the run learns nothing: {truth:?}");
    assert!(worst(&own) <= 2.0 * envelope + 1e-5, "ours leaves by {:.2e}, libtorch in f32 by {envelope:.2e}", worst(&own));
}
