//! Max and sum pooling.

use super::super::{MaxPoolSpec, SumPoolSpec};
use crate::context::Disjoint;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};
use std::ops::Range;

/// Max pooling.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn max_pool<T: Element>(ctx: &mut Context, spec: &MaxPoolSpec, x: &[T], out: &mut [T]) {
    let MaxPoolSpec { batch, input: [ih, iw], channels } = *spec;
    let [oh, ow] = spec.output();
    assert_eq!(x.len(), batch * ih * iw * channels, "x");
    assert_eq!(out.len(), batch * oh * ow * channels, "out");
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    let rows_per_task = super::rows_per_task(ow * channels);
    ctx.parallel((batch * oh).div_ceil(rows_per_task), 0, |task, _| {
        for row in task * rows_per_task..(batch * oh).min((task + 1) * rows_per_task) {
            let image = &x[row / oh * ih * iw * channels..][..ih * iw * channels];
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(row * ow * channels, ow * channels) };
            dispatch(isa, MaxRow { image, rows: window(row % oh, ih), width: iw, channels, out });
        }
    });
}

/// Input coordinates under output coordinate `at`.
fn window(at: usize, length: usize) -> Range<usize> {
    (2 * at).saturating_sub(1)..(2 * at + 2).min(length)
}

/// One output row of max pooling.
struct MaxRow<'a, T> {
    image: &'a [T],
    rows: Range<usize>,
    width: usize,
    channels: usize,
    out: &'a mut [T],
}

impl<T: Element> Kernel for MaxRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let MaxRow { image, rows, width, channels, out } = self;
        for (x, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
            let columns = window(x, width);
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                let mut best = V::splat(f32::NEG_INFINITY);
                for y in rows.clone() {
                    let pixels = &image[(y * width + columns.start) * channels..][..columns.len() * channels];
                    for column in 0..columns.len() {
                        // SAFETY: pixel `column` of `pixels` has `channels` elements, `count` of them from `channel` on.
                        best = best.max(unsafe { load(pixels.as_ptr().add(column * channels + channel), count) });
                    }
                }
                // SAFETY: `out` has `channels` elements.
                unsafe { store(best, out.as_mut_ptr().add(channel), count) };
                channel += count;
            }
        }
    }
}

/// Pixels whose sum is one task's.
const BAND: usize = 1024;

/// Pixels added one after another: short chains lose less to rounding.
const CHAIN: usize = 32;

/// Sum pooling.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn sum_pool<T: Element>(ctx: &mut Context, spec: &SumPoolSpec, x: &[T], out: &mut [f32]) {
    let SumPoolSpec { batch, pixels, channels } = *spec;
    assert_eq!(x.len(), batch * pixels * channels, "x");
    assert_eq!(out.len(), batch * channels, "out");
    let isa = ctx.isa();
    let bands = pixels.div_ceil(BAND);
    let mut partial = vec![0.0; batch * bands * channels];
    let shared = Disjoint::new(&mut partial);
    ctx.parallel(batch * bands, 0, |task, _| {
        let (image, band) = (task / bands, task % bands);
        let pixels = band * BAND..pixels.min((band + 1) * BAND);
        let x = &x[(image * spec.pixels + pixels.start) * channels..][..pixels.len() * channels];
        // SAFETY: each task has its own image and band.
        let sums = unsafe { shared.slice(task * channels, channels) };
        dispatch(isa, SumBand { x, channels, sums });
    });
    merge_bands(bands, &partial, channels, out);
}

/// `out[image, c] = Σ_band partial[image, band, c]`, bands in their order.
pub(crate) fn merge_bands(bands: usize, partial: &[f32], channels: usize, out: &mut [f32]) {
    for (image, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
        out.fill(0.0);
        for band in 0..bands {
            let partial = &partial[(image * bands + band) * channels..][..channels];
            out.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
        }
    }
}

/// The channel sums of some pixels.
struct SumBand<'a, T> {
    x: &'a [T],
    channels: usize,
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for SumBand<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let SumBand { x, channels, sums } = self;
        sums.fill(0.0);
        for chain in x.chunks(CHAIN * channels.max(1)) {
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                let mut sum = V::zero();
                for pixel in chain.chunks_exact(channels) {
                    // SAFETY: `count` channels follow `channel`.
                    sum = sum.add(unsafe { load(pixel.as_ptr().add(channel), count) });
                }
                // SAFETY: `sums` has `channels` values.
                unsafe {
                    let to = sums.as_mut_ptr().add(channel);
                    V::load_partial(to, count).add(sum).store_partial(to, count);
                }
                channel += count;
            }
        }
    }
}
