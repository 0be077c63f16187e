//! How results of whole networks are held against the truth.

use crate::judge::{Errors, Floor, judge, label_flips};
use crate::network::{Setup, run};
use crate::parity::Case;
use segface::weights::Weights;
use segface_codegen::Variant;
use segface_reference::{Model, Outputs};
use tch::{Kind, Tensor};

/// Every tensor of `outputs` with its name.
pub fn named(outputs: &Outputs) -> [(&'static str, &Tensor); 7] {
    let [stage0, stage1, stage2, stage3] = &outputs.taps;
    [
        ("logits", &outputs.logits),
        ("tokens", &outputs.tokens),
        ("fused", &outputs.fused),
        ("stage0", stage0),
        ("stage1", stage1),
        ("stage2", stage2),
        ("stage3", stage3),
    ]
}

/// What an f32 result of that label set may be off by, relative L2.
pub fn f32_bound(variant: Variant) -> f64 {
    if variant == Variant::Lapa { 2e-3 } else { 1e-4 }
}

/// Largest absolute difference.
pub fn largest(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Labels may flip only where twice the error that logits of this precision may have reaches over the margin.
fn check_labels(what: &str, ours: &Tensor, truth: &Tensor, error: f64) {
    let flips = label_flips(ours, truth);
    assert!(flips.widest_margin <= 2.0 * error, "{what}: {flips:?}, but logits may be off by {error:.2e} only");
}

/// Holds f32 results against the truth.
///
/// # Panics
/// If one is off by more than `bound`.
pub fn check_f32(what: &str, ours: &Outputs, truth: &Outputs, bound: f64) {
    for ((name, ours), (_, truth)) in named(ours).into_iter().zip(named(truth)) {
        let error = Errors::of(ours, truth).l2;
        assert!(error <= bound, "{what}: {name} is off by {error:.2e}, allowed {bound:.0e}");
    }
    let rms = truth.logits.square().mean(Kind::Double).sqrt().double_value(&[]);
    // The largest of n errors of a given root mean square is rarely beyond ten times that.
    check_labels(what, &ours.logits, &truth.logits, 10.0 * bound * rms);
}

/// Holds results in a lower precision against the truth, by the rule that kernels are judged by; `peer` is libtorch in the same
/// precision.
///
/// # Panics
/// If one is further off.
pub fn check_peer(what: &str, floor: Floor, ours: &Outputs, truth: &Outputs, peer: &Outputs) {
    for (((name, ours), (_, truth)), (_, peer)) in named(ours).into_iter().zip(named(truth)).zip(named(peer)) {
        let values: Vec<f32> = Vec::try_from(ours.to_kind(Kind::Float).flatten(0, -1)).expect("values");
        if let Err(failure) = judge(&format!("{what}, {name}"), &values, truth, peer, floor) {
            panic!("{failure}");
        }
    }
    check_labels(what, &ours.logits, &truth.logits, 2.0 * largest(&peer.logits, &truth.logits));
}

/// What libtorch computes in `kind`.
///
/// # Panics
/// If it refuses.
pub fn reference(weights: &Weights, input: &Tensor, landmarks: &Tensor, kind: Kind) -> Outputs {
    Model::new(weights.spec, weights, kind).forward(input, Some(landmarks)).expect("the reference runs")
}

/// Holds a stored case in f32 against what is stored.
///
/// # Panics
/// If a result is off by more than its bound.
pub fn check_stored(case: &Case, weights: &Weights, setup: &Setup) {
    let ours = run(weights, &case.input(), Some(&case.landmarks()), setup);
    let bound = f32_bound(case.spec.variant);
    for (name, tensor) in named(&ours) {
        let whole = matches!(name, "logits" | "tokens");
        let tensor = if whole { tensor.shallow_clone() } else { case.thin(name, tensor) };
        let error = Errors::of(&tensor, &case.tensor(name)).l2;
        assert!(error <= bound, "{}, {setup:?}: {name} is off by {error:.2e}, allowed {bound:.0e}", case.name);
    }
}

/// Plausible faces, each a little beside the one before: [N, 5, 2] in pixels.
pub fn faces(batch: i64, height: i64, width: i64) -> Tensor {
    let face = [0.36, 0.42, 0.63, 0.4, 0.51, 0.57, 0.41, 0.71, 0.6, 0.7];
    let face = Tensor::from_slice(&face).view([1, 5, 2]);
    let beside = Tensor::arange(batch, (Kind::Double, tch::Device::Cpu)).view([-1, 1, 1]) * 0.03;
    (face + beside) * Tensor::from_slice(&[width as f64, height as f64])
}
