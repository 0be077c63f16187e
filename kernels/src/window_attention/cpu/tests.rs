//! Every tier against a naive f64 implementation that follows the specs word by word; libtorch judges in the tests crate.

use super::*;
use crate::gemm::PackedMatrix;
use crate::window_attention::*;
use crate::{Context, DType, Element, Isa, bf16};

/// A problem with its numbers, exact in T.
struct Problem {
    spec: WindowAttentionSpec,
    norm: (Vec<f32>, Vec<f32>),
    qkv_weight: Vec<f32>,
    qkv_bias: Vec<f32>,
    score_scale: Vec<f32>,
    bias: Vec<f32>,
    proj_weight: Vec<f32>,
    proj_bias: Vec<f32>,
    x: Vec<f32>,
}

/// A stream of numbers in −1..1.
fn noise(seed: u32) -> impl FnMut() -> f32 {
    let mut state = u64::from(seed) * 2 + 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Problem {
    fn new<T: Element>(kind: WindowKind, batch: usize, input: [usize; 2], heads: usize, shift: usize) -> Self {
        let window = if kind == WindowKind::V1 { 7 } else { 8 };
        let (channels, square) = (heads * 32, (window * window) * (window * window));
        let mut noise = noise((input[0] * 100 + input[1] * 10 + heads + shift) as u32);
        let mut values = |count: usize, mean: f32, spread: f32| -> Vec<f32> {
            (0..count).map(|_| T::from_f32(mean + spread * noise()).to_f32()).collect()
        };
        let width = (3.0 / channels as f32).sqrt();
        let mut qkv_bias = values(3 * channels, 0.0, 0.5);
        if kind == WindowKind::V2 {
            qkv_bias[channels..2 * channels].fill(0.0);
        }
        let plan = WindowPlan::new(input, window, shift);
        Self {
            spec: WindowAttentionSpec { batch, input, channels, heads, window, shift: plan.shift, kind, eps: 1e-5 },
            norm: (values(channels, 1.0, 0.3), values(channels, 0.0, 0.3)),
            qkv_weight: values(3 * channels * channels, 0.0, width),
            qkv_bias,
            score_scale: match kind {
                WindowKind::V1 => vec![32f32.powf(-0.5); heads],
                WindowKind::V2 => values(heads, 12.0, 8.0),
            },
            bias: values(heads * square, 0.0, 1.0),
            proj_weight: values(channels * channels, 0.0, width),
            proj_bias: values(channels, 0.0, 0.5),
            x: values(batch * input[0] * input[1] * channels, 0.2, 1.5),
        }
    }

    /// About how large scores are.
    fn largest_score(&self) -> f32 {
        let largest = |values: &[f32]| values.iter().fold(0f32, |most, value| most.max(*value));
        largest(&self.bias) + if self.spec.kind == WindowKind::V1 { 2.0 } else { largest(&self.score_scale) }
    }

    fn run<T: Element>(&self, isa: Isa, threads: usize) -> Vec<f32> {
        let channels = self.spec.channels;
        let mut x: Vec<T> = self.x.iter().map(|v| T::from_f32(*v)).collect();
        window_attention(
            &mut Context::new(threads, isa),
            &self.spec,
            WindowAttentionOperands {
                norm: (&self.norm.0, &self.norm.1),
                qkv_weight: &PackedMatrix::pack::<T>(isa, 3 * channels, channels, &self.qkv_weight),
                qkv_bias: &self.qkv_bias,
                score_scale: &self.score_scale,
                bias: &self.bias,
                proj_weight: &PackedMatrix::pack::<T>(isa, channels, channels, &self.proj_weight),
                proj_bias: &self.proj_bias,
                x: &mut x,
            },
        );
        x.iter().map(|v| v.to_f32()).collect()
    }

    fn naive(&self) -> Vec<f64> {
        self.naive_masked(-100.0)
    }

    /// The spec in f64: pad, norm, roll, cut, attend, roll back, crop.
    fn naive_masked(&self, mask: f64) -> Vec<f64> {
        let WindowAttentionSpec { batch, input, channels, heads, window, kind, eps, .. } = self.spec;
        let (plan, tokens, pixels) = (self.spec.plan(), window * window, input[0] * input[1]);
        let norm = |row: &mut [f64]| {
            let mean = row.iter().sum::<f64>() / channels as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / channels as f64;
            for (c, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) / (variance + f64::from(eps)).sqrt() * f64::from(self.norm.0[c])
                    + f64::from(self.norm.1[c]);
            }
        };
        let linear = |row: &[f64], weight: &[f32], bias: &[f32]| -> Vec<f64> {
            let dot = |w: &[f32]| row.iter().zip(w).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
            weight.chunks_exact(row.len()).zip(bias).map(|(w, b)| dot(w) + f64::from(*b)).collect()
        };
        let mut out: Vec<f64> = self.x.iter().map(|v| f64::from(*v)).collect();
        let [down, across] = plan.windows();
        for window in 0..batch * down * across {
            let (image, y, x) = (window / (down * across), window / across % down, window % across);
            let sources: Vec<_> =
                (0..tokens).map(|i| plan.source(y, x, i).map(|pixel| image * pixels + pixel)).collect();
            let qkv: Vec<Vec<f64>> = sources
                .iter()
                .map(|source| {
                    let mut row = vec![0.0; channels];
                    if let Some(pixel) = source {
                        for (to, from) in row.iter_mut().zip(&self.x[pixel * channels..]) {
                            *to = f64::from(*from);
                        }
                        if kind == WindowKind::V1 {
                            norm(&mut row);
                        }
                    }
                    linear(&row, &self.qkv_weight, &self.qkv_bias)
                })
                .collect();
            let regions: Vec<_> = (0..tokens).map(|i| plan.region(y, x, i)).collect();
            let mixed = attend_naively(kind, &qkv, heads, &self.score_scale, &self.bias, &regions, mask);
            for (source, mixed) in sources.iter().zip(&mixed) {
                if let Some(pixel) = source {
                    let mut row = linear(mixed, &self.proj_weight, &self.proj_bias);
                    if kind == WindowKind::V2 {
                        norm(&mut row);
                    }
                    out[pixel * channels..].iter_mut().zip(&row).for_each(|(out, branch)| *out += branch);
                }
            }
        }
        out
    }
}

/// Attention of one window, rows of q, k, v in, one row per token out.
fn attend_naively(
    kind: WindowKind,
    qkv: &[Vec<f64>],
    heads: usize,
    score_scale: &[f32],
    bias: &[f32],
    regions: &[u8],
    mask: f64,
) -> Vec<Vec<f64>> {
    let (tokens, channels) = (qkv.len(), heads * 32);
    let mut out = vec![vec![0.0; channels]; tokens];
    for head in 0..heads {
        let part = |token: usize, part: usize| -> Vec<f64> {
            let row = qkv[token][part * channels + head * 32..][..32].to_vec();
            let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
            let divide = kind == WindowKind::V2 && part < 2;
            row.iter().map(|v| if divide { v / length } else { *v }).collect()
        };
        for query in 0..tokens {
            let q = part(query, 0);
            let scores: Vec<f64> = (0..tokens)
                .map(|key| {
                    let dot: f64 = q.iter().zip(part(key, 1)).map(|(a, b)| a * b).sum();
                    let mask = if regions[query] == regions[key] { 0.0 } else { mask };
                    let bias = bias[(head * tokens + query) * tokens + key];
                    dot * f64::from(score_scale[head]) + f64::from(bias) + mask
                })
                .collect();
            let most = scores.iter().fold(f64::MIN, |a, b| a.max(*b));
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (key, weight) in weights.iter().enumerate() {
                for (to, v) in out[query][head * 32..].iter_mut().zip(part(key, 2)) {
                    *to += weight / sum * v;
                }
            }
        }
    }
    out
}

/// Relative L2 error and the largest error over the root mean square.
fn errors(ours: &[f32], truth: &[f64]) -> (f64, f64) {
    let rms = (truth.iter().map(|v| v * v).sum::<f64>() / truth.len() as f64).sqrt();
    let differences = ours.iter().zip(truth).map(|(a, b)| (f64::from(*a) - b).abs());
    let l2 = (differences.clone().map(|d| d * d).sum::<f64>() / truth.len() as f64).sqrt();
    (l2 / rms, differences.fold(0.0, f64::max) / rms)
}

/// Some roundings to the precision, for q, k, v, the mixture and the result. Scores of size `scores` are exponents: their
/// roundings are relative errors of the weights.
fn assert_close<T: Element>(ours: &[f32], truth: &[f64], scores: f32, place: &str) {
    let rounding = if T::DTYPE == DType::Bf16 { 2f64.powi(-8) } else { 2f64.powi(-23) };
    let allowed = rounding * (2.0 + f64::from(scores) / 8.0);
    let (l2, max) = errors(ours, truth);
    assert!(l2 < allowed && max < 10.0 * allowed, "{place}: relative L2 {l2:.2e}, largest {max:.2e}");
}

fn every_tier<T: Element>(problem: &Problem) {
    let truth = problem.naive();
    for isa in Isa::available() {
        let alone = problem.run::<T>(isa, 1);
        assert_close::<T>(
            &alone,
            &truth,
            problem.largest_score(),
            &format!("{isa:?} {:?} {:?}", T::DTYPE, problem.spec),
        );
        for threads in [2, 3] {
            assert!(problem.run::<T>(isa, threads) == alone, "{isa:?} with {threads} threads: {:?}", problem.spec);
        }
    }
}

#[test]
fn every_tier_computes_the_branch() {
    for (kind, batch, input, heads, shift) in [
        (WindowKind::V1, 1, [7, 7], 1, 3),
        (WindowKind::V1, 1, [14, 14], 2, 3),
        (WindowKind::V1, 2, [16, 9], 3, 3),
        (WindowKind::V1, 1, [16, 16], 4, 0),
        (WindowKind::V1, 1, [5, 23], 2, 3),
        (WindowKind::V1, 3, [1, 2], 5, 3),
        (WindowKind::V2, 1, [16, 16], 3, 4),
        (WindowKind::V2, 1, [7, 7], 4, 4),
        (WindowKind::V2, 2, [12, 17], 2, 4),
        (WindowKind::V2, 1, [28, 9], 1, 0),
    ] {
        every_tier::<f32>(&Problem::new::<f32>(kind, batch, input, heads, shift));
        every_tier::<bf16>(&Problem::new::<bf16>(kind, batch, input, heads, shift));
    }
}

/// Where all scores of a query's own region lie more than 100 below those of another region, −100 does not hide the other
/// region, but −∞ would.
#[test]
fn the_mask_is_minus_one_hundred() {
    let mut problem = Problem::new::<f32>(WindowKind::V1, 1, [14, 14], 1, 3);
    let tokens = 49;
    // Keys of the lower rows, which a shift of 3 brings there from the top, score 150 more.
    for query in 0..tokens {
        problem.bias[query * tokens + 4 * 7..(query + 1) * tokens].fill(150.0);
    }
    every_tier::<f32>(&problem);
    let hidden = problem.naive_masked(-1e9);
    let (l2, _) = errors(&problem.run::<f32>(Isa::Portable, 1), &hidden);
    assert!(l2 > 0.01, "the problem does not tell −100 from −∞: {l2}");
}

/// On values of 1e-3 the ε of 1e-5 is larger than the variance.
#[test]
fn the_norm_has_its_epsilon() {
    let mut problem = Problem::new::<f32>(WindowKind::V1, 1, [8, 8], 2, 3);
    problem.x.iter_mut().for_each(|v| *v *= 1e-3);
    every_tier::<f32>(&problem);
    let with = problem.naive();
    problem.spec.eps = 1e-6;
    let (l2, _) = errors(&problem.run::<f32>(Isa::Portable, 1), &with);
    assert!(l2 > 0.01, "the problem does not see ε: {l2}");
}

fn gather_core_scatter<T: Element>(kind: WindowKind, batch: usize, input: [usize; 2], shift: usize) {
    let problem = Problem::new::<T>(kind, batch, input, 2, shift);
    let WindowAttentionSpec { channels, heads, .. } = problem.spec;
    let plan = problem.spec.plan();
    let tokens = plan.window * plan.window;
    let windows = batch * plan.windows().iter().product::<usize>();
    let x: Vec<T> = problem.x.iter().map(|v| T::from_f32(*v)).collect();
    let fill: Vec<f32> = (0..channels).map(|c| c as f32).collect();
    for isa in Isa::available() {
        let context = &mut Context::new(2, isa);
        let mut cut = vec![T::default(); windows * tokens * channels];
        let gather = WindowGatherSpec { batch, plan, channels };
        window_gather(context, &gather, WindowGatherOperands { x: &x, fill: Some(&fill), out: &mut cut });
        let [down, across] = plan.windows();
        for (index, row) in cut.chunks_exact(channels).enumerate() {
            let (window, token) = (index / tokens, index % tokens);
            let image = window / (down * across);
            match plan.source(window / across % down, window % across, token) {
                Some(pixel) => assert_eq!(row, &x[(image * input[0] * input[1] + pixel) * channels..][..channels]),
                None => assert!(row.iter().zip(&fill).all(|(a, b)| *a == T::from_f32(*b))),
            }
        }
        let mut back = vec![T::default(); x.len()];
        let scatter = WindowScatterSpec { batch, plan, channels };
        window_scatter(context, &scatter, WindowScatterOperands { x: &cut, out: &mut back });
        assert!(back == x);

        let mut noise = noise(77);
        let qkv: Vec<T> = (0..3 * cut.len()).map(|_| T::from_f32(2.0 * noise())).collect();
        let mut out = vec![T::default(); cut.len()];
        window_core(
            context,
            &WindowCoreSpec { batch, plan, channels, heads, kind },
            WindowCoreOperands { qkv: &qkv, score_scale: &problem.score_scale, bias: &problem.bias, out: &mut out },
        );
        for window in 0..windows {
            let rows: Vec<Vec<f64>> = qkv[window * tokens * 3 * channels..][..tokens * 3 * channels]
                .chunks_exact(3 * channels)
                .map(|row| row.iter().map(|v| f64::from(v.to_f32())).collect())
                .collect();
            let (y, x) = (window / across % down, window % across);
            let regions: Vec<u8> = (0..tokens).map(|i| plan.region(y, x, i)).collect();
            let truth = attend_naively(kind, &rows, heads, &problem.score_scale, &problem.bias, &regions, -100.0);
            let truth = truth.concat();
            let ours: Vec<f32> =
                out[window * tokens * channels..][..tokens * channels].iter().map(|v| v.to_f32()).collect();
            assert_close::<T>(&ours, &truth, 20.0, &format!("{isa:?} {:?} {plan:?}", T::DTYPE));
        }
    }
}

#[test]
fn parts_gather_attend_and_scatter() {
    for (kind, batch, input, shift) in [
        (WindowKind::V1, 1, [14, 14], 3),
        (WindowKind::V1, 2, [9, 16], 3),
        (WindowKind::V2, 1, [12, 20], 4),
        (WindowKind::V2, 3, [3, 8], 4),
    ] {
        gather_core_scatter::<f32>(kind, batch, input, shift);
        gather_core_scatter::<bf16>(kind, batch, input, shift);
    }
}

#[test]
fn flops_are_those_of_swin_base() {
    // Stage 1 of swin_b at 224: 64 windows of 49 tokens, 128 channels; nothing is padded.
    let spec = Problem::new::<f32>(WindowKind::V1, 1, [56, 56], 4, 3).spec;
    let products = 56 * 56 * (2 * 128 * 3 * 128 + 2 * 128 * 128);
    let attention = 64 * 4 * 2 * (2 * 49 * 49 * 32);
    assert_eq!(spec.flops(), products + attention);
    assert_eq!(spec.padded_flops(), spec.flops());
    let padded = WindowAttentionSpec { input: [16, 16], ..spec };
    assert_eq!(padded.padded_flops() * 256, padded.flops() * 21 * 21);
}
