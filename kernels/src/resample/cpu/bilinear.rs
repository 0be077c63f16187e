//! Bilinear resize.

use super::super::BilinearSpec;
use crate::context::Disjoint;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Where an output coordinate falls between two input coordinates.
#[derive(Clone, Copy)]
pub(crate) struct Tap {
    pub(crate) low: usize,
    pub(crate) high: usize,
    /// Weight of `high`; that of `low` is what is left of one.
    pub(crate) weight: f32,
}

/// Taps of one axis: pixel centres are aligned, coordinates left of the first centre are moved onto it.
pub(crate) fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f64 / output as f64;
    (0..output)
        .map(|i| {
            let at = ((i as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (at as usize).min(input - 1);
            Tap { low, high: (low + 1).min(input - 1), weight: (at - low as f64) as f32 }
        })
        .collect()
}

/// Resizes.
///
/// # Panics
/// If an operand's length is not what the spec says, or the input has no pixel.
pub fn bilinear<T: Element>(ctx: &mut Context, spec: &BilinearSpec, x: &[T], out: &mut [T]) {
    let BilinearSpec { batch, input: [ih, iw], output: [oh, ow], channels } = *spec;
    assert!(ih > 0 && iw > 0, "an input of {ih}×{iw}");
    assert_eq!(x.len(), batch * ih * iw * channels, "x");
    assert_eq!(out.len(), batch * oh * ow * channels, "out");
    let (rows, columns) = (taps(ih, oh), taps(iw, ow));
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    let rows_per_task = super::rows_per_task(ow * channels);
    ctx.parallel((batch * oh).div_ceil(rows_per_task), 0, |task, _| {
        for row in task * rows_per_task..(batch * oh).min((task + 1) * rows_per_task) {
            let (image, y) = (row / oh, rows[row % oh]);
            let input_row = |y: usize| &x[(image * ih + y) * iw * channels..][..iw * channels];
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(row * ow * channels, ow * channels) };
            dispatch(
                isa,
                Row {
                    top: input_row(y.low),
                    bottom: input_row(y.high),
                    weight: y.weight,
                    columns: &columns,
                    channels,
                    out,
                },
            );
        }
    });
}

/// One output row.
struct Row<'a, T> {
    top: &'a [T],
    bottom: &'a [T],
    /// Of `bottom`.
    weight: f32,
    columns: &'a [Tap],
    channels: usize,
    out: &'a mut [T],
}

impl<T: Element> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Row { top, bottom, weight, columns, channels, out } = self;
        let (down, up) = (V::splat(weight), V::splat(1.0 - weight));
        for (tap, out) in columns.iter().zip(out.chunks_exact_mut(channels.max(1))) {
            let (right, left) = (V::splat(tap.weight), V::splat(1.0 - tap.weight));
            let corners = [
                &top[tap.low * channels..][..channels],
                &top[tap.high * channels..][..channels],
                &bottom[tap.low * channels..][..channels],
                &bottom[tap.high * channels..][..channels],
            ];
            let mut channel = 0;
            while channel < channels {
                let count = V::LANES.min(channels - channel);
                // SAFETY: `channel + count` ≤ `channels`, the length of all five slices.
                unsafe {
                    let mut values = [V::zero(); 4];
                    for (value, corner) in values.iter_mut().zip(corners) {
                        *value = load(corner.as_ptr().add(channel), count);
                    }
                    let above = values[0].mul(left).mul_add(up, values[1].mul(right).mul(up));
                    let below = values[2].mul(left).mul_add(down, values[3].mul(right).mul(down));
                    store(above.add(below), out.as_mut_ptr().add(channel), count);
                }
                channel += count;
            }
        }
    }
}
