//! Operators that only move elements.

use super::super::{ConcatSpec, PixelShuffleSpec};
use crate::context::Disjoint;
use crate::{Context, Element};

/// Concatenates rows.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn concat<T: Element>(ctx: &mut Context, spec: &ConcatSpec, x: [&[T]; 4], out: &mut [T]) {
    let row_len = spec.out_channels();
    for (x, channels) in x.iter().zip(spec.channels) {
        assert_eq!(x.len(), spec.rows * channels, "an operand of {channels} channels");
    }
    assert_eq!(out.len(), spec.rows * row_len, "out");
    if row_len == 0 {
        return;
    }
    let out = Disjoint::new(out);
    let rows_per_task = super::rows_per_task(row_len);
    ctx.parallel(spec.rows.div_ceil(rows_per_task), 0, |task, _| {
        let rows = task * rows_per_task..spec.rows.min((task + 1) * rows_per_task);
        // SAFETY: each task has its own rows.
        let out = unsafe { out.slice(rows.start * row_len, rows.len() * row_len) };
        for (row, out) in rows.zip(out.chunks_exact_mut(row_len)) {
            let mut rest = out;
            for (x, channels) in x.iter().zip(spec.channels) {
                let (head, tail) = rest.split_at_mut(channels);
                head.copy_from_slice(&x[row * channels..][..channels]);
                rest = tail;
            }
        }
    });
}

/// Moves groups of channels to space.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn pixel_shuffle<T: Element>(ctx: &mut Context, spec: &PixelShuffleSpec, x: &[T], out: &mut [T]) {
    let PixelShuffleSpec { batch, input: [height, width], channels } = *spec;
    let row_len = width * 4 * channels;
    assert_eq!((x.len(), out.len()), (batch * height * row_len, batch * height * row_len), "x and out");
    if row_len == 0 {
        return;
    }
    let out = Disjoint::new(out);
    let rows = batch * height;
    let rows_per_task = super::rows_per_task(row_len);
    ctx.parallel(rows.div_ceil(rows_per_task), 0, |task, _| {
        let rows = task * rows_per_task..rows.min((task + 1) * rows_per_task);
        // SAFETY: each task has its own rows.
        let out = unsafe { out.slice(rows.start * row_len, rows.len() * row_len) };
        for (row, out) in rows.zip(out.chunks_exact_mut(row_len)) {
            // Both columns of an output row lie side by side, in the pixel as in the output.
            let (above, below) = out.split_at_mut(row_len / 2);
            let pairs = above.chunks_exact_mut(2 * channels).zip(below.chunks_exact_mut(2 * channels));
            for (pixel, (above, below)) in x[row * row_len..].chunks_exact(4 * channels).zip(pairs) {
                above.copy_from_slice(&pixel[..2 * channels]);
                below.copy_from_slice(&pixel[2 * channels..]);
            }
        }
    });
}
