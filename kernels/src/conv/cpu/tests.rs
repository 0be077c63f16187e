//! Every tier against the definition.

use super::conv;
use crate::conv::{ConvOperands, ConvSpec};
use crate::epilogue::{EpilogueOperands, Residual};
use crate::gemm::PackedMatrix;
use crate::{Act, Context, Element, Epilogue, Isa, bf16};

/// Values in −1..1 from a linear congruential generator, rounded to T.
fn values<T: Element>(seed: u32, len: usize) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        T::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

/// `relu(conv(x) + bias + residual)` by the definition, in f64.
fn expected<T: Element>(spec: &ConvSpec, x: &[T], weight: &[T], bias: &[f32], residual: &[T]) -> Vec<f64> {
    let ([oh, ow], [ih, iw], k) = (spec.output(), spec.input, spec.kernel);
    let wide = |v: T| f64::from(v.to_f32());
    let mut out = Vec::new();
    for (image, y) in (0..spec.batch).flat_map(|image| (0..oh).map(move |y| (image, y))) {
        for (column, o) in (0..ow).flat_map(|x| (0..spec.out_channels).map(move |o| (x, o))) {
            let mut sum = f64::from(bias[o]) + wide(residual[out.len()]);
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))) {
                let (iy, ix) = (y * spec.stride + i, column * spec.stride + j);
                let inside = |at: usize, side: usize| (spec.padding..side + spec.padding).contains(&at);
                if inside(iy, ih) && inside(ix, iw) {
                    let pixel = ((image * ih + iy - spec.padding) * iw + ix - spec.padding) * spec.channels;
                    let tap = (o * k * k + i * k + j) * spec.channels;
                    sum += (0..spec.channels).map(|c| wide(x[pixel + c]) * wide(weight[tap + c])).sum::<f64>();
                }
            }
            out.push(sum.max(0.0));
        }
    }
    out
}

fn check<T: Element>(spec: &ConvSpec, tolerance: f64) {
    let x = values::<T>(1, spec.batch * spec.input[0] * spec.input[1] * spec.channels);
    let weight = values::<T>(2, spec.out_channels * spec.depth());
    let bias = values::<f32>(3, spec.out_channels);
    let residual = values::<T>(4, spec.rows() * spec.out_channels);
    let expected = expected(spec, &x, &weight, &bias, &residual);
    let wide: Vec<f32> = weight.iter().map(|w| w.to_f32()).collect();
    for isa in Isa::available() {
        let packed = PackedMatrix::pack::<T>(isa, spec.out_channels, spec.depth(), &wide);
        let mut alone: Option<Vec<T>> = None;
        for threads in 1..=3 {
            let mut out = residual.clone();
            let epilogue = EpilogueOperands { bias: Some(&bias), residual: Residual::InPlace, ..Default::default() };
            let operands = ConvOperands { x: &x, weight: &packed, epilogue, out: &mut out };
            conv(&mut Context::new(threads, isa), spec, operands);
            for (i, (found, expected)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(found.to_f32()) - expected).abs();
                let allowed = tolerance * (1.0 + expected.abs() + spec.depth() as f64 / 64.0);
                assert!(error <= allowed, "{isa:?} {spec:?}: {i}: {found:?}, not {expected}");
            }
            match &alone {
                None => alone = Some(out),
                Some(alone) => assert!(*alone == out, "{isa:?}, {threads} threads, other bits: {spec:?}"),
            }
        }
    }
}

#[test]
fn every_tier_gives_the_definitions_result_for_all_kernels_strides_and_paddings() {
    let epilogue = Epilogue { bias: true, residual: true, act_after: Act::Relu, ..Epilogue::default() };
    for (kernel, stride, padding) in [
        (1, 1, 0),
        (1, 2, 0),
        (1, 1, 1),
        (2, 2, 0),
        (3, 1, 1),
        (3, 2, 1),
        (3, 1, 0),
        (4, 4, 0),
        (5, 1, 2),
        (7, 2, 3),
        (3, 1, 3),
    ] {
        for (batch, input, channels, out_channels) in [
            (1, [1, 1], 1, 1),
            (2, [5, 4], 3, 7),
            (1, [17, 9], 32, 16),
            (3, [7, 13], 24, 40),
            (1, [33, 35], 3, 24),
            (2, [6, 6], 64, 33),
        ] {
            let spec = ConvSpec { batch, input, channels, out_channels, kernel, stride, padding, epilogue };
            check::<f32>(&spec, 4e-6);
            check::<bf16>(&spec, 1.0 / 256.0);
        }
    }
}
