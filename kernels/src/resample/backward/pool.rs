//! Max and sum pooling.

use super::super::cpu::rows_per_task;
use super::super::{MaxPoolSpec, SumPoolSpec};
use crate::gradient::{Gradient, put};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// The gradient of an output goes to the first largest of its inputs, row by row, as libtorch's does: x [batch, h, w, C],
/// out as the forward pass gave it and d_out [batch, ⌈h/2⌉, ⌈w/2⌉, C], d_x as x.
///
/// An input asks each of the at most four windows that it lies in whether it is the window's first largest; so at most four
/// times nine comparisons per element, but no index is stored.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn max_pool_backward<T: Element>(
    ctx: &mut Context,
    spec: &MaxPoolSpec,
    x: &[T],
    out: &[T],
    d_out: &[T],
    d_x: Gradient<'_, T>,
) {
    let MaxPoolSpec { batch, input: [ih, iw], channels } = *spec;
    let [oh, ow] = spec.output();
    assert_eq!((x.len(), d_x.values.len()), (batch * ih * iw * channels, x.len()), "x and d_x");
    assert_eq!((out.len(), d_out.len()), (batch * oh * ow * channels, out.len()), "out and d_out");
    let isa = ctx.isa();
    let d_x = d_x.share();
    let rows_per_task = rows_per_task(iw * channels);
    ctx.parallel((batch * ih).div_ceil(rows_per_task), 0, |task, _| {
        for row in task * rows_per_task..(batch * ih).min((task + 1) * rows_per_task) {
            let (image, y) = (row / ih, row % ih);
            // SAFETY: each task has its own rows.
            let to = unsafe { d_x.values.slice(row * iw * channels, iw * channels) };
            let x = &x[image * ih * iw * channels..][..ih * iw * channels];
            let outputs = image * oh * ow * channels..(image + 1) * oh * ow * channels;
            let (out, d_out) = (&out[outputs.clone()], &d_out[outputs]);
            let size = [ih, iw, oh, ow];
            dispatch(isa, MaxRow { size, channels, y, x, out, d_out, d_x: to, accumulate: d_x.accumulate });
        }
    });
}

/// One row of max pooling's d_x; maps are one image's.
struct MaxRow<'a, T> {
    size: [usize; 4],
    channels: usize,
    y: usize,
    x: &'a [T],
    out: &'a [T],
    d_out: &'a [T],
    d_x: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for MaxRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { size: [ih, iw, oh, ow], channels, y, x, out, d_out, d_x, accumulate } = self;
        assert!(x.len() == ih * iw * channels && out.len() == oh * ow * channels && d_out.len() == out.len());
        assert!(d_x.len() == iw * channels && y < ih);
        // Windows that hold input i: (i / 2)..=((i + 1) / 2), those there are.
        let (first_row, last_row) = (y / 2, y.div_ceil(2).min(oh - 1));
        for column in 0..iw {
            let (first_column, last_column) = (column / 2, column.div_ceil(2).min(ow - 1));
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                // SAFETY: rows and columns are inside the maps, `count` channels follow `channel`.
                unsafe {
                    let own: V = load(x.as_ptr().add((y * iw + column) * channels + channel), count);
                    let mut sum = V::zero();
                    for row in first_row..last_row + 1 {
                        for window in first_column..last_column + 1 {
                            let at = (row * ow + window) * channels + channel;
                            let best: V = load(out.as_ptr().add(at), count);
                            let mut share: V = load(d_out.as_ptr().add(at), count);
                            // Not the largest, or an earlier one is as large: no share.
                            share = own.select_below(best, V::zero(), share);
                            let top = (2 * row).saturating_sub(1);
                            let left = (2 * window).saturating_sub(1);
                            for earlier in top..y + 1 {
                                let end = if earlier == y { column } else { (2 * window + 2).min(iw) };
                                for other in left..end {
                                    let at = (earlier * iw + other) * channels + channel;
                                    let other: V = load(x.as_ptr().add(at), count);
                                    share = other.select_below(best, share, V::zero());
                                }
                            }
                            sum = sum.add(share);
                        }
                    }
                    put(sum, d_x.as_mut_ptr().add(column * channels + channel), count, accumulate);
                }
                channel += count;
            }
        }
    }
}

/// `d_x[b, p, c] = d_out[b, c]`: d_out [batch, C] f32, d_x [batch, pixels, C].
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn sum_pool_backward<T: Element>(ctx: &mut Context, spec: &SumPoolSpec, d_out: &[f32], d_x: Gradient<'_, T>) {
    let SumPoolSpec { batch, pixels, channels } = *spec;
    assert_eq!(d_out.len(), batch * channels, "d_out");
    assert_eq!(d_x.values.len(), batch * pixels * channels, "d_x");
    if channels == 0 {
        return;
    }
    let isa = ctx.isa();
    let d_x = d_x.share();
    let rows_per_task = rows_per_task(channels);
    let tasks = pixels.div_ceil(rows_per_task);
    ctx.parallel(batch * tasks, 0, |task, _| {
        let (image, first) = (task / tasks, task % tasks * rows_per_task);
        let rows = rows_per_task.min(pixels - first);
        let from = &d_out[image * channels..][..channels];
        // SAFETY: each task has its own rows; the same row of d_out for all of them.
        unsafe { d_x.put(isa, (rows, channels), (from, 0), ((image * pixels + first) * channels, channels)) };
    });
}
