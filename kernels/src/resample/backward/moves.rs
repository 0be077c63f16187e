//! Operators that only moved elements: they are moved back.

use super::super::cpu::rows_per_task;
use super::super::{ConcatSpec, PixelShuffleSpec};
use crate::gradient::{Gradient, put};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};

/// `d_x_i[r] = d_out[r]`, the columns of operand i: d_out [rows, Σ channels], d_x_i [rows, channels`[i]`]. An operand whose
/// gradient nobody wants is `None`.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn concat_backward<T: Element>(
    ctx: &mut Context,
    spec: &ConcatSpec,
    d_out: &[T],
    d_x: [Option<Gradient<'_, T>>; 4],
) {
    let row_len = spec.out_channels();
    assert_eq!(d_out.len(), spec.rows * row_len, "d_out");
    let mut start = 0;
    let parts = d_x.into_iter().zip(spec.channels).map(|(d_x, channels)| {
        let column = start;
        start += channels;
        d_x.map(|d_x| {
            assert_eq!(d_x.values.len(), spec.rows * channels, "the gradient of an operand of {channels} channels");
            (column, channels, d_x.share())
        })
    });
    let parts: Vec<_> = parts.flatten().collect();
    if row_len == 0 {
        return;
    }
    let isa = ctx.isa();
    let rows_per_task = rows_per_task(row_len);
    ctx.parallel(spec.rows.div_ceil(rows_per_task), 0, |task, _| {
        for row in task * rows_per_task..spec.rows.min((task + 1) * rows_per_task) {
            for (column, channels, d_x) in &parts {
                // SAFETY: each task has its own rows.
                let to = unsafe { d_x.values.slice(row * channels, *channels) };
                move_row(isa, &d_out[row * row_len + column..][..*channels], to, d_x.accumulate);
            }
        }
    });
}

/// `d_x[b, y, x, (i·2 + j)·C + c] = d_out[b, 2y+i, 2x+j, c]`: d_out [batch, 2h, 2w, C], d_x [batch, h, w, 4·C].
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn pixel_shuffle_backward<T: Element>(
    ctx: &mut Context,
    spec: &PixelShuffleSpec,
    d_out: &[T],
    d_x: Gradient<'_, T>,
) {
    let PixelShuffleSpec { batch, input: [height, width], channels } = *spec;
    let row_len = width * 4 * channels;
    let rows = batch * height;
    assert_eq!((d_out.len(), d_x.values.len()), (rows * row_len, rows * row_len), "d_out and d_x");
    if row_len == 0 {
        return;
    }
    let isa = ctx.isa();
    let d_x = d_x.share();
    let rows_per_task = rows_per_task(row_len);
    ctx.parallel(rows.div_ceil(rows_per_task), 0, |task, _| {
        for row in task * rows_per_task..rows.min((task + 1) * rows_per_task) {
            // SAFETY: each task has its own rows.
            let to = unsafe { d_x.values.slice(row * row_len, row_len) };
            // Both columns of an output row lie side by side, in the pixel as in the output.
            let (above, below) = d_out[row * row_len..][..row_len].split_at(row_len / 2);
            let pairs = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
            for (pixel, (above, below)) in to.chunks_exact_mut(4 * channels).zip(pairs) {
                let (first, second) = pixel.split_at_mut(2 * channels);
                move_row(isa, above, first, d_x.accumulate);
                move_row(isa, below, second, d_x.accumulate);
            }
        }
    });
}

/// Writes a run of elements, or adds it to what is there.
pub(crate) fn move_row<T: Element>(isa: Isa, from: &[T], to: &mut [T], accumulate: bool) {
    assert_eq!(from.len(), to.len());
    if accumulate { dispatch(isa, AddRow { from, to }) } else { to.copy_from_slice(from) }
}

struct AddRow<'a, T> {
    from: &'a [T],
    to: &'a mut [T],
}

impl<T: Element> Kernel for AddRow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let n = self.to.len();
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: both have n elements.
            unsafe {
                let value: V = load(self.from.as_ptr().add(i), count);
                put(value, self.to.as_mut_ptr().add(i), count, true);
            }
            i += count;
        }
    }
}
