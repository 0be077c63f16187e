//! Runs of some steps: the same weights, batches and optimizer in our engine and in libtorch.

use crate::run::{of_run, own_losses, reference_losses};
use segface::weights::seeded;
use tch::Kind;

const STEPS: u64 = 20;

#[test]
fn losses_of_twenty_steps_follow_libtorchs_within_the_envelope_of_f32() {
    let weights = seeded(of_run(0).spec);
    let own = own_losses(&mut of_run(0).engine(&weights, 2), STEPS);
    let truth = reference_losses(&weights, Kind::Double, STEPS);
    let peer = reference_losses(&weights, Kind::Float, STEPS);
    let mut envelope = 0.0f64;
    for step in 0..own.len() {
        let (error, peers) = ((own[step] - truth[step]).abs(), (peer[step] - truth[step]).abs());
        envelope = envelope.max(peers);
        println!("step {step:2}: {:.6}, ours {error:.2e} off, libtorch f32 {peers:.2e}", truth[step]);
    }
    let worst = |errors: &[f64]| errors.iter().zip(&truth).map(|(e, t)| (e - t).abs()).fold(0.0f64, f64::max);
    assert!(truth[STEPS as usize - 1] < truth[0], "the run learns nothing: {truth:?}");
    assert!(
        worst(&own) <= 2.0 * envelope + 1e-5,
        "ours leaves by {:.2e}, libtorch in f32 by {envelope:.2e}",
        worst(&own)
    );
}
