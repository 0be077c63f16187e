//! What holds between steps: the same bits twice, sums of micro-batches, errors.

use crate::common::{DRAWS, Problem, ours};
use crate::gradients::engine;
use segface::train::{Draws, Engine};
use segface::weights::seeded;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::adamw::{AdamWOperands, AdamWSpec, cpu::adamw};
use segface_kernels::{Context, Isa};

fn problem(number: usize) -> Problem {
    let spec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
    Problem { spec, batch: 2, side: 32, stochastic_depth: true, number }
}

/// Relative L2 distance.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    (difference / square(&mut b.iter().map(|b| f64::from(*b)))).sqrt()
}

#[test]
fn a_step_gives_the_same_bits_twice_and_on_another_engine() {
    let problem = problem(0);
    let weights = seeded(problem.spec);
    let mut one = engine(&problem, &weights, Precision::F32);
    let first = ours(&mut one, &problem);
    let statistics = one.buffers().to_vec();
    assert!(
        first == ours(&mut engine(&problem, &weights, Precision::F32), &problem),
        "another engine gives other bits"
    );
    assert!(first == ours(&mut one, &problem), "the second step gives other bits");
    assert!(statistics != one.buffers(), "running statistics move with every step");
}

#[test]
fn micro_batches_add_up_and_their_factor_counts() {
    let problem = problem(0);
    let weights = seeded(problem.spec);
    let mut engine = engine(&problem, &weights, Precision::F32);
    let batch = problem.batch();
    engine.accumulate(&batch, DRAWS, 1.0, &mut |_, _| {}).unwrap();
    let once = engine.gradients().to_vec();
    engine.accumulate(&batch, DRAWS, 0.5, &mut |_, _| {}).unwrap();
    let expected: Vec<f32> = once.iter().map(|d| 1.5 * d).collect();
    assert!(distance(engine.gradients(), &expected) < 1e-6);
}

/// Losses of some steps of the published recipe's optimizer.
fn losses(engine: &mut dyn Engine) -> Vec<f64> {
    let len = engine.layout().parameters_len();
    let ranges = engine.layout().trained_ranges();
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let mut context = Context::new(1, Isa::best());
    let step = |step: u64| {
        engine.gradients_mut().fill(0.0);
        let problem = Problem { side: 64, ..problem(step as usize % 2) };
        let draws = Draws { step, ..DRAWS };
        let loss = engine.accumulate(&problem.batch(), draws, 1.0, &mut |_, _| {}).unwrap();
        let (parameters, gradients) = engine.parameters_and_gradients();
        let spec = AdamWSpec {
            learning_rate: 1e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 1e-5,
            step: step + 1,
            gradient_scale: 1.0,
        };
        for range in &ranges {
            let operands = AdamWOperands {
                gradients: &gradients[range.clone()],
                parameters: &mut parameters[range.clone()],
                first_moments: &mut first[range.clone()],
                second_moments: &mut second[range.clone()],
            };
            adamw(&mut context, &spec, operands);
        }
        loss.total()
    };
    (0..3).map(step).collect()
}

#[test]
fn three_steps_have_the_losses_of_the_cpu() {
    let problem = Problem { side: 64, ..problem(0) };
    let weights = seeded(problem.spec);
    let own = losses(&mut engine(&problem, &weights, Precision::F32));
    let expected = losses(&mut problem.engine(&weights, 1));
    for (step, (own, expected)) in own.iter().zip(&expected).enumerate() {
        assert!((own - expected).abs() < 1e-5 * expected, "step {step}: {own}, on the CPU {expected}");
    }
}

#[test]
fn tf32_is_close_to_f32() {
    let problem = problem(0);
    let weights = seeded(problem.spec);
    let exact = ours(&mut engine(&problem, &weights, Precision::F32), &problem);
    let mut rounded = engine(&problem, &weights, Precision::Tf32);
    let loss = ours(&mut rounded, &problem).0;
    assert!((loss.total() - exact.0.total()).abs() < 2e-3, "{} and {}", loss.total(), exact.0.total());
    assert!(loss != exact.0, "tf32 rounds");
}

#[test]
fn what_a_batch_cannot_be_is_said_before_anything_is_run() {
    let problem = problem(0);
    let weights = seeded(problem.spec);
    let mut engine = engine(&problem, &weights, Precision::F32);
    let mut said = |change: &dyn Fn(&mut segface::data::Batch)| {
        let mut batch = problem.batch();
        change(&mut batch);
        engine.accumulate(&batch, DRAWS, 1.0, &mut |_, _| {}).unwrap_err().to_string()
    };
    assert!(said(&|batch| batch.labels[70] = 19).contains("label 19 at pixel 70 of image 0"));
    assert!(said(&|batch| batch.labels.truncate(5)).contains("5 labels for 2048 pixels"));
    let short = said(&|batch| batch.images.truncate(30));
    assert!(short.contains("30"), "{short}");
    assert!(engine.gradients().iter().all(|d| *d == 0.0));
}
