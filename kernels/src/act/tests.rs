use super::*;
use crate::bf16;

/// Φ(x) in f64: a Taylor series near zero, a continued fraction of the tail beyond.
fn normal_cdf(x: f64) -> f64 {
    let t = x.abs();
    let density = (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let tail = if t < 3.0 {
        let (mut term, mut sum, mut n) = (t, t, 1.0);
        while term > 1e-18 * sum {
            n += 2.0;
            term *= t * t / n;
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..=200).rev().fold(t, |fraction, n| t + f64::from(n) / fraction)
    };
    if x < 0.0 { tail } else { 1.0 - tail }
}

fn truth(act: Act, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match act {
        Act::Identity => x,
        Act::Relu => x.max(0.0),
        Act::Gelu => x * normal_cdf(x),
        Act::Silu => x * sigmoid,
        Act::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Act::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Act::Sigmoid => sigmoid,
    }
}

const ALL: [Act; 7] = [Act::Identity, Act::Relu, Act::Gelu, Act::Silu, Act::HardSwish, Act::HardSigmoid, Act::Sigmoid];

/// −12..12 in fine steps, small numbers and a few large ones.
fn arguments() -> Vec<f32> {
    let mut x: Vec<f32> = (-60_000..=60_000).map(|i| i as f32 * 2e-4 + 1.234e-5).collect();
    x.extend((0..60).flat_map(|e| [1.1f32 * 2f32.powi(-e), -1.3 * 2f32.powi(-e)]));
    x.extend([0.0, -0.0, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30]);
    x
}

#[test]
fn activations_in_f32_are_as_accurate_as_they_say() {
    let x = arguments();
    for isa in Isa::available() {
        for act in ALL {
            let mut y = x.clone();
            act.apply_slice(isa, &mut y);
            for (x, y) in x.iter().zip(y) {
                let (wide, expected) = (f64::from(*x), truth(act, f64::from(*x)));
                let error = (f64::from(y) - expected).abs();
                // x < 0: what x/2 · (1 + erf) has there too.
                let bound = 3e-7 * expected.abs() + if act == Act::Gelu && wide < 0.0 { 1e-7 * -wide } else { 1e-37 };
                assert!(error <= bound, "{} {act:?}({x}) = {y}, not {expected}", isa.name());
            }
        }
    }
}

#[test]
fn gelu_in_bf16_is_off_by_rounding_alone() {
    let x: Vec<bf16> = arguments().into_iter().map(bf16::from_f32).collect();
    for isa in Isa::available() {
        let mut y = x.clone();
        Act::Gelu.apply_slice(isa, &mut y);
        for (x, y) in x.iter().zip(y) {
            let expected = truth(Act::Gelu, x.to_f64());
            let bound = 2f64.powi(-8) * expected.abs() + 1.4e-5;
            assert!((y.to_f64() - expected).abs() <= bound, "{} gelu({x}) = {y}, not {expected}", isa.name());
        }
    }
}

#[test]
fn nan_stays_nan_and_infinities_saturate() {
    for isa in Isa::available() {
        for act in ALL {
            let mut y = [f32::NAN; 3];
            act.apply_slice(isa, &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{} {act:?}", isa.name());
        }
        for (act, low, high) in
            [(Act::Sigmoid, 0.0, 1.0), (Act::HardSigmoid, 0.0, 1.0), (Act::Relu, 0.0, f32::INFINITY)]
        {
            let mut y = [f32::NEG_INFINITY, f32::INFINITY];
            act.apply_slice(isa, &mut y);
            assert_eq!(y, [low, high], "{} {act:?}", isa.name());
        }
    }
}
