//! Every tier against the spec in f64; libtorch judges in the tests crate.

use super::*;
use crate::{DType, bf16};

/// `count` numbers in −1..1, times `spread`, plus `mean`, exact in T.
fn values<T: Element>(seed: u64, count: usize, mean: f32, spread: f32) -> Vec<f32> {
    let mut state = seed * 2 + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f32(mean + spread * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)).to_f32()
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn layer_norm(row: &mut [f64], weight: &[f32], bias: &[f32], eps: f32) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    for (c, v) in row.iter_mut().enumerate() {
        *v = (*v - mean) / (variance + f64::from(eps)).sqrt() * f64::from(weight[c]) + f64::from(bias[c]);
    }
}

fn every_tier<T: Element>(place: MergeNorm, batch: usize, [height, width]: [usize; 2], channels: usize) {
    let spec = PatchMergeSpec { batch, input: [height, width], channels, norm: place, eps: 1e-5 };
    let normed = if place == MergeNorm::Before { 4 * channels } else { 2 * channels };
    let x = values::<T>(1, batch * height * width * channels, 0.3, 1.5);
    let (gamma, beta) = (values::<T>(2, normed, 1.0, 0.3), values::<T>(3, normed, 0.0, 0.3));
    let weight = values::<T>(4, 8 * channels * channels, 0.0, (0.75 / channels as f32).sqrt());

    let [rows, columns] = [height.div_ceil(2), width.div_ceil(2)];
    let (mut gathered, mut truth) = (Vec::new(), Vec::new());
    for row in 0..batch * rows * columns {
        let (image, y, x0) = (row / (rows * columns), row / columns % rows, row % columns);
        let mut g = vec![0.0f64; 4 * channels];
        for (part, (down, right)) in [(0, 0), (1, 0), (0, 1), (1, 1)].into_iter().enumerate() {
            let (y, x0) = (2 * y + down, 2 * x0 + right);
            if y < height && x0 < width {
                for c in 0..channels {
                    g[part * channels + c] = f64::from(x[((image * height + y) * width + x0) * channels + c]);
                }
            }
        }
        gathered.extend(g.iter().map(|v| *v as f32));
        if place == MergeNorm::Before {
            layer_norm(&mut g, &gamma, &beta, spec.eps);
        }
        let mut product: Vec<f64> =
            weight.chunks_exact(4 * channels).map(|w| w.iter().zip(&g).map(|(w, g)| f64::from(*w) * g).sum()).collect();
        if place == MergeNorm::After {
            layer_norm(&mut product, &gamma, &beta, spec.eps);
        }
        truth.extend(product);
    }

    let elements: Vec<T> = x.iter().map(|v| T::from_f32(*v)).collect();
    let rounding = if T::DTYPE == DType::Bf16 { 2f64.powi(-8) } else { 2f64.powi(-23) };
    for isa in Isa::available() {
        let packed = PackedMatrix::pack::<T>(isa, 2 * channels, 4 * channels, &weight);
        let mut alone: Option<Vec<T>> = None;
        for threads in [1, 2, 5] {
            let context = &mut Context::new(threads, isa);
            let mut out = vec![T::default(); gathered.len()];
            let gather = PatchGatherSpec { batch, input: [height, width], channels };
            patch_gather(context, &gather, PatchGatherOperands { x: &elements, out: &mut out });
            assert!(out.iter().zip(&gathered).all(|(a, b)| a.to_f32() == *b), "{isa:?} {spec:?}: gather");

            let mut out = vec![T::default(); truth.len()];
            let operands = PatchMergeOperands { x: &elements, norm: (&gamma, &beta), weight: &packed, out: &mut out };
            patch_merge(context, &spec, operands);
            let alone = alone.get_or_insert_with(|| out.clone());
            assert!(out == *alone, "{isa:?} {spec:?}: {threads} threads");
            let rms = (truth.iter().map(|v| v * v).sum::<f64>() / truth.len() as f64).sqrt();
            let worst = out.iter().zip(&truth).map(|(a, b)| (f64::from(a.to_f32()) - b).abs()).fold(0.0, f64::max);
            let allowed = 2.0 * (4.0 * channels as f64).sqrt() * rounding * rms;
            assert!(worst < allowed, "{isa:?} {:?} {spec:?}: {worst:e} of {rms:e}", T::DTYPE);
        }
    }
}

#[test]
fn every_tier_merges_patches() {
    for place in [MergeNorm::Before, MergeNorm::After] {
        for (batch, input, channels) in
            [(1, [8, 8], 32), (2, [7, 5], 24), (1, [1, 1], 96), (3, [2, 9], 128), (1, [40, 33], 32)]
        {
            every_tier::<f32>(place, batch, input, channels);
            every_tier::<bf16>(place, batch, input, channels);
        }
    }
}

#[test]
fn flops_are_those_of_the_product() {
    let spec = PatchMergeSpec { batch: 2, input: [5, 8], channels: 96, norm: MergeNorm::Before, eps: 1e-5 };
    assert_eq!(spec.flops(), 2 * (2 * 3 * 4) * 192 * 384);
}
