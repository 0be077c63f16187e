//! Gradients of the depthwise convolution, on the CPU.
//!
//! Data: `d_x[b, iy, ix, c] (+)= Σ_{i, j} d_out[b, (iy + p − i)/s, (ix + p − j)/s, c] · weight[i·k + j, c]` where the divisions leave no
//! rest; of stride 1 that is the forward kernel with the taps in reverse order.
//! Weight: `d_weight[i·k + j, c] += Σ_{b, y, x} d_out[b, y, x, c] · x[b, y·s + i − p, x·s + j − p, c]`, `d_bias[c] += Σ d_out`.
//! FLOPs of each as forward. Sums of bands of rows are kept apart and added in order.

use super::{DepthwiseOperands, DepthwiseSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::gradient::{add_partials, put};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element, Gradient};
use std::ops::Range;

/// Output rows whose sums stay together.
const BAND: usize = 8;

/// Operands of [`depthwise_input`].
pub struct DepthwiseInputOperands<'a, T: Element> {
    /// [batch, oh, ow, C]
    pub d_out: &'a [T],
    /// [k·k, C]
    pub weight: &'a [f32],
    /// [batch, h, w, C]
    pub d_x: Gradient<'a, T>,
}

/// Operands of [`depthwise_weight`].
pub struct DepthwiseWeightOperands<'a, T: Element> {
    /// [batch, h, w, C], as the forward pass had it.
    pub x: &'a [T],
    /// [batch, oh, ow, C]
    pub d_out: &'a [T],
    /// [k·k, C], added to.
    pub d_weight: &'a mut [f32],
    /// `[C]`, added to.
    pub d_bias: Option<&'a mut [f32]>,
}

/// The gradient of the data.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn depthwise_input<T: Element>(ctx: &mut Context, spec: &DepthwiseSpec, operands: DepthwiseInputOperands<'_, T>) {
    let DepthwiseInputOperands { d_out, weight, d_x } = operands;
    let DepthwiseSpec { batch, input: [height, width], channels, kernel, stride, .. } = *spec;
    let [oh, ow] = spec.output();
    assert_eq!(d_out.len(), batch * oh * ow * channels, "d_out");
    assert_eq!(weight.len(), kernel * kernel * channels, "weight");
    assert_eq!(d_x.values.len(), batch * height * width * channels, "d_x");
    if d_x.values.is_empty() {
        return;
    }
    if stride == 1 && !d_x.accumulate {
        let mut turned = Vec::with_capacity(weight.len());
        for tap in weight.chunks_exact(channels).rev() {
            turned.extend_from_slice(tap);
        }
        let spec = DepthwiseSpec { act: Act::Identity, pool: false, ..*spec };
        let operands = DepthwiseOperands { x: d_out, weight: &turned, bias: None, out: d_x.values, sums: None };
        return super::cpu::depthwise(ctx, &spec, operands);
    }
    let isa = ctx.isa();
    let d_x = d_x.share();
    ctx.parallel(batch * height, 0, |row, _| {
        // SAFETY: each task has its own row.
        let to = unsafe { d_x.values.slice(row * width * channels, width * channels) };
        let d_out = &d_out[row / height * oh * ow * channels..][..oh * ow * channels];
        dispatch(isa, InputRow { spec, d_out, weight, y: row % height, to, accumulate: d_x.accumulate });
    });
}

/// One row of the data's gradient.
struct InputRow<'a, T> {
    spec: &'a DepthwiseSpec,
    /// The image's.
    d_out: &'a [T],
    weight: &'a [f32],
    y: usize,
    to: &'a mut [T],
    accumulate: bool,
}

/// Output coordinate that tap `i` brings to input coordinate `at`.
#[inline(always)]
fn reached(at: usize, i: usize, kernel: usize, stride: usize, side: usize) -> Option<usize> {
    let from = (at + kernel / 2).checked_sub(i)?;
    if from % stride != 0 || from / stride >= side {
        return None;
    }
    Some(from / stride)
}

impl<T: Element> Kernel for InputRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { spec, d_out, weight, y, to, accumulate } = self;
        let DepthwiseSpec { input: [_, width], channels, kernel, stride, .. } = *spec;
        let [oh, ow] = spec.output();
        assert!(to.len() == width * channels && d_out.len() == oh * ow * channels);
        for x in 0..width {
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                // SAFETY: pixels inside d_out and the row, taps inside the weight, channels inside a pixel.
                unsafe {
                    let mut sum = V::zero();
                    for i in 0..kernel {
                        let Some(row) = reached(y, i, kernel, stride, oh) else { continue };
                        for j in 0..kernel {
                            let Some(column) = reached(x, j, kernel, stride, ow) else { continue };
                            let d: V = load(d_out.as_ptr().add((row * ow + column) * channels + channel), count);
                            let tap = load(weight.as_ptr().add((i * kernel + j) * channels + channel), count);
                            sum = d.mul_add(tap, sum);
                        }
                    }
                    put(sum, to.as_mut_ptr().add(x * channels + channel), count, accumulate);
                }
                channel += count;
            }
        }
    }
}

/// Adds up the gradients of taps and bias.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn depthwise_weight<T: Element>(ctx: &mut Context, spec: &DepthwiseSpec, operands: DepthwiseWeightOperands<'_, T>) {
    let DepthwiseWeightOperands { x, d_out, d_weight, d_bias } = operands;
    let DepthwiseSpec { batch, input: [height, width], channels, kernel, stride, .. } = *spec;
    let [oh, ow] = spec.output();
    assert_eq!(x.len(), batch * height * width * channels, "x");
    assert_eq!(d_out.len(), batch * oh * ow * channels, "d_out");
    assert_eq!(d_weight.len(), kernel * kernel * channels, "d_weight");
    assert!(d_bias.as_deref().is_none_or(|d| d.len() == channels), "d_bias");
    if d_out.is_empty() {
        return;
    }
    let isa = ctx.isa();
    let bands = oh.div_ceil(BAND);
    let taps = kernel * kernel + 1;
    let with_bias = d_bias.is_some();
    let len = batch * bands * taps * channels;
    ctx.with_shared(scratch_bytes::<f32>(len), |ctx, mut shared| {
        let partial = shared.take::<f32>(len);
        let sums = Disjoint::new(&mut *partial);
        ctx.parallel(batch * bands, 0, |task, _| {
            let (image, band) = (task / bands, task % bands);
            // SAFETY: each task has its own sums.
            let sums = unsafe { sums.slice(task * taps * channels, taps * channels) };
            let band = Band {
                spec,
                x: &x[image * height * width * channels..][..height * width * channels],
                d_out: &d_out[image * oh * ow * channels..][..oh * ow * channels],
                rows: band * BAND..oh.min((band + 1) * BAND),
                sums,
                with_bias,
            };
            match (kernel, stride) {
                (3, 1) => dispatch(isa, Sums::<T, 3, 3, 1>(band)),
                (3, _) => dispatch(isa, Sums::<T, 3, 3, 2>(band)),
                (5, 1) => dispatch(isa, Sums::<T, 5, 5, 1>(band)),
                (5, _) => dispatch(isa, Sums::<T, 5, 5, 2>(band)),
                (7, 1) => dispatch(isa, Sums::<T, 7, 3, 1>(band)),
                (7, _) => dispatch(isa, Sums::<T, 7, 3, 2>(band)),
                _ => panic!("a depthwise kernel of {kernel}: there are 3, 5 and 7"),
            }
        });
        // The bias lies behind the taps of each band.
        let mut both = vec![0.0; taps * channels];
        add_partials(ctx, partial, &mut both);
        let (weight, bias) = both.split_at(kernel * kernel * channels);
        d_weight.iter_mut().zip(weight).for_each(|(sum, d)| *sum += d);
        if let Some(d_bias) = d_bias {
            d_bias.iter_mut().zip(bias).for_each(|(sum, d)| *sum += d);
        }
    });
}

/// A band of rows of one image.
struct Band<'a, T> {
    spec: &'a DepthwiseSpec,
    x: &'a [T],
    d_out: &'a [T],
    rows: Range<usize>,
    /// [k·k + 1, C], overwritten.
    sums: &'a mut [f32],
    with_bias: bool,
}

/// `K`: side of the kernel; `R`: kernel rows whose sums fit into the registers at once; `S`: stride.
struct Sums<'a, T, const K: usize, const R: usize, const S: usize>(Band<'a, T>);

impl<T: Element, const K: usize, const R: usize, const S: usize> Kernel for Sums<'_, T, K, R, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Band { spec, x, d_out, rows, sums, with_bias } = self.0;
        let channels = spec.channels;
        sums.fill(0.0);
        let mut channel = 0;
        while channel < channels {
            let lanes = V::LANES.min(channels - channel);
            let block = Lanes { spec, x, d_out, channel, lanes };
            for y in rows.clone() {
                for first in (0..K).step_by(R) {
                    row::<V, T, K, R, S>(&block, y, first, sums);
                }
                if with_bias {
                    let ow = spec.output()[1];
                    let mut sum = V::zero();
                    for column in 0..ow {
                        let at = (y * ow + column) * channels + channel;
                        // SAFETY: a pixel of d_out, and its channels.
                        sum = sum.add(unsafe { load(d_out.as_ptr().add(at), lanes) });
                    }
                    let to = &mut sums[K * K * channels + channel..][..lanes];
                    // SAFETY: the slice has `lanes` values.
                    unsafe { put(sum, to.as_mut_ptr(), lanes, true) };
                }
            }
            channel += lanes;
        }
    }
}

/// Some channels of a band.
struct Lanes<'a, T> {
    spec: &'a DepthwiseSpec,
    x: &'a [T],
    d_out: &'a [T],
    channel: usize,
    lanes: usize,
}

/// Adds what output row `y` gives to the kernel rows `first..first + R`.
#[inline(always)]
fn row<V: Vector, T: Element, const K: usize, const R: usize, const S: usize>(
    block: &Lanes<'_, T>,
    y: usize,
    first: usize,
    sums: &mut [f32],
) {
    let Lanes { spec, x, d_out, channel, lanes } = *block;
    let ([height, width], channels) = (spec.input, spec.channels);
    let ow = spec.output()[1];
    let padding = K / 2;
    // Kernel rows whose input row is inside the image.
    let low = padding.saturating_sub(y * S).max(first);
    let high = (height + padding).saturating_sub(y * S).min(K).min(first + R);
    if low >= high {
        return;
    }
    // Output columns all of whose taps are inside.
    let start = padding.div_ceil(S).min(ow);
    let end = ((width + padding).saturating_sub(K - 1).div_ceil(S)).clamp(start, ow);
    assert!(x.len() == height * width * channels && channel + lanes <= channels && y * ow < d_out.len());
    let mut totals = [[V::zero(); K]; R];
    // SAFETY: rows low..high and the columns named are inside the image.
    unsafe {
        for column in (0..start).chain(end..ow) {
            let d: V = load(d_out.as_ptr().add((y * ow + column) * channels + channel), lanes);
            for r in low..high {
                let line = (y * S + r - padding) * width;
                for j in 0..K {
                    let at = column * S + j;
                    if at >= padding && at - padding < width {
                        let from = x.as_ptr().add((line + at - padding) * channels + channel);
                        totals[r - first][j] = d.mul_add(load(from, lanes), totals[r - first][j]);
                    }
                }
            }
        }
        if high - low == R && lanes == V::LANES {
            for column in start..end {
                let d = V::load_as(d_out.as_ptr().add((y * ow + column) * channels + channel));
                let from = x.as_ptr().wrapping_add(((y * S + first) * width + column * S) * channels + channel);
                let from = from.wrapping_sub((padding * width + padding) * channels);
                for r in 0..R {
                    for j in 0..K {
                        let value = V::load_as(from.wrapping_add((r * width + j) * channels));
                        totals[r][j] = d.mul_add(value, totals[r][j]);
                    }
                }
            }
        } else {
            for column in start..end {
                let d: V = load(d_out.as_ptr().add((y * ow + column) * channels + channel), lanes);
                for r in low..high {
                    let line = (y * S + r - padding) * width + column * S - padding;
                    for j in 0..K {
                        let from = x.as_ptr().add((line + j) * channels + channel);
                        totals[r - first][j] = d.mul_add(load(from, lanes), totals[r - first][j]);
                    }
                }
            }
        }
        for r in low..high {
            for j in 0..K {
                let to = &mut sums[(r * K + j) * channels + channel..][..lanes];
                put(totals[r - first][j], to.as_mut_ptr(), lanes, true);
            }
        }
    }
}
