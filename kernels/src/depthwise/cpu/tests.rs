//! Every tier against the definition.

use super::depthwise;
use crate::depthwise::{DepthwiseOperands, DepthwiseSpec};
use crate::{Act, Context, Element, Isa, bf16};

/// Values in −1..1 from a linear congruential generator.
fn values(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Output (with ReLU) and sums by the definition, in f64.
fn expected(spec: &DepthwiseSpec, x: &[f32], weight: &[f32], bias: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let [oh, ow] = spec.output();
    let ([ih, iw], channels, k) = (spec.input, spec.channels, spec.kernel);
    let mut sums = vec![0.0; spec.batch * channels];
    let mut out = Vec::new();
    for image in 0..spec.batch {
        for (y, column, c) in (0..oh).flat_map(|y| (0..ow).flat_map(move |x| (0..channels).map(move |c| (y, x, c)))) {
            let mut sum = f64::from(bias[c]);
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                let (iy, ix) = (y * spec.stride + i, column * spec.stride + j);
                if (k / 2..ih + k / 2).contains(&iy) && (k / 2..iw + k / 2).contains(&ix) {
                    let at = ((image * ih + iy - k / 2) * iw + ix - k / 2) * channels + c;
                    sum += f64::from(x[at]) * f64::from(weight[(i * k + j) * channels + c]);
                }
            }
            let value = sum.max(0.0);
            sums[image * channels + c] += value;
            out.push(value);
        }
    }
    (out, sums)
}

fn check<T: Element>(spec: &DepthwiseSpec, tolerance: f64) {
    let x: Vec<T> =
        values(1, spec.batch * spec.input[0] * spec.input[1] * spec.channels).into_iter().map(T::from_f32).collect();
    let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let weight = values(2, spec.kernel * spec.kernel * spec.channels);
    let bias = values(3, spec.channels);
    let (expected, expected_sums) = expected(spec, &wide, &weight, &bias);
    for isa in Isa::available() {
        let mut alone: Option<(Vec<T>, Vec<f32>)> = None;
        for threads in 1..=3 {
            let mut out = vec![T::from_f32(77.0); expected.len()];
            let mut sums = vec![77.0; expected_sums.len()];
            let operands = DepthwiseOperands {
                x: &x,
                weight: &weight,
                bias: Some(&bias),
                out: &mut out,
                sums: spec.pool.then_some(&mut sums),
            };
            depthwise(&mut Context::new(threads, isa), spec, operands);
            for (i, (found, expected)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(found.to_f32()) - expected).abs();
                assert!(
                    error <= tolerance * (1.0 + expected.abs()),
                    "{isa:?} {spec:?}: {i}: {found:?}, not {expected}"
                );
            }
            if spec.pool {
                for (found, expected) in sums.iter().zip(&expected_sums) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error <= 2e-6 * (1.0 + expected.abs()), "{isa:?} {spec:?}: sum {found}, not {expected}");
                }
            }
            match &alone {
                None => alone = Some((out, sums)),
                Some(alone) => assert!(*alone == (out, sums), "{isa:?}, {threads} threads, other bits: {spec:?}"),
            }
        }
    }
}

#[test]
fn every_tier_gives_the_definitions_result_for_odd_sizes_and_counts() {
    for (kernel, stride) in [3, 5, 7].into_iter().flat_map(|k| [(k, 1), (k, 2)]) {
        for (batch, input, channels) in [
            (1, [1, 1], 1),
            (2, [2, 1], 3),
            (1, [3, 8], 16),
            (3, [5, 7], 17),
            (1, [35, 21], 40),
            (2, [18, 34], 33),
            (1, [17, 9], 200),
        ] {
            for pool in [false, true] {
                let spec = DepthwiseSpec { batch, input, channels, kernel, stride, act: Act::Relu, pool };
                check::<f32>(&spec, 2e-6);
                check::<bf16>(&spec, 1.0 / 256.0);
            }
        }
    }
}
