//! What holds between steps: the same bits twice, sums of micro-batches, errors.

use crate::common::{DRAWS, Problem, ours};
use crate::gradients::engine;
use crate::run::{of_run, own_losses, reference_losses};
use segface::train::Engine;
use segface::weights::seeded;
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use tch::Kind;

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

#[test]
fn three_steps_have_the_losses_of_the_cpu_and_of_libtorch() {
    const STEPS: u64 = 3;
    let weights = seeded(of_run(0).spec);
    let own = own_losses(&mut engine(&of_run(0), &weights, Precision::F32), STEPS);
    let cpu = own_losses(&mut of_run(0).engine(&weights, 1), STEPS);
    let truth = reference_losses(&weights, Kind::Double, STEPS);
    for (step, own) in own.iter().enumerate() {
        for expected in [cpu[step], truth[step]] {
            assert!((own - expected).abs() < 1e-5 * expected, "step {step}: {own}, expected {expected}");
        }
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
