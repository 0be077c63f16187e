//! The window over the map where it is. Pixels are the outer loop and channels the inner one, so that memory is read and
//! written in its own order.

use super::window::{Source, WIDTH, activate, sums};
use super::{DepthwiseSpec, Shape, Task};
use crate::Element;
use crate::simd::{Kernel, Vector};

/// Output rows of a task: even, because rows are computed in pairs, and few, so that small maps are shared out too.
const BAND: usize = 4;

pub(super) fn shape(spec: &DepthwiseSpec) -> Shape {
    Shape { rows: BAND, channels: spec.channels, scratch: 0 }
}

pub(super) struct Direct<'a, T: Element, const K: usize, const S: usize>(pub(super) Task<'a, T>);

impl<T: Element, const K: usize, const S: usize> Kernel for Direct<'_, T, K, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let mut task = self.0;
        let (rows, width) = (task.rows.clone(), task.spec.output()[1]);
        let mut y = rows.start;
        while y < rows.end {
            // Two rows of sums need more than sixteen registers.
            let two = V::LANES == 16 && y + 2 <= rows.end;
            for x in (0..width).step_by(WIDTH) {
                if two {
                    block::<V, T, K, S, true>(&mut task, y, x);
                } else {
                    block::<V, T, K, S, false>(&mut task, y, x);
                }
            }
            y += if two { 2 } else { 1 };
        }
    }
}

/// All channels of one or two rows of outputs from (y, x) on.
#[inline(always)]
fn block<V: Vector, T: Element, const K: usize, const S: usize, const TWO: bool>(
    task: &mut Task<'_, T>,
    y: usize,
    x: usize,
) {
    let spec = task.spec;
    let ([height, width], channels, padding) = (spec.input, spec.channels, K / 2);
    let out_width = WIDTH.min(spec.output()[1] - x);
    let (rows, columns) = (if TWO { K + S } else { K }, (WIDTH - 1) * S + K);
    let inside = |first: usize, length: usize, side: usize| {
        padding.saturating_sub(first)..length.min((side + padding).saturating_sub(first))
    };
    let rows = inside(y * S, rows, height);
    let columns = inside(x * S, columns, width);
    let whole = columns.len() == (WIDTH - 1) * S + K;
    // The block's first input pixel, padding included: outside `x` where the padding is.
    let first = ((y * S) as isize - padding as isize) * width as isize + (x * S) as isize - padding as isize;
    let mut source = Source {
        input: task.x.as_ptr().wrapping_offset(first * channels as isize),
        pixel: channels,
        row: width * channels,
        weight: task.weight.as_ptr(),
        tap: channels,
        lanes: V::LANES,
        rows,
        columns,
    };
    let mut channel = 0;
    while channel < channels {
        source.lanes = V::LANES.min(channels - channel);
        let bias = task.bias(channel, source.lanes);
        // SAFETY: `rows` and `columns` are inside the image, `lanes` channels inside a pixel and a tap.
        let mut result = unsafe {
            if whole && source.lanes == V::LANES {
                sums::<V, T, K, S, TWO, true>(&source, bias)
            } else {
                sums::<V, T, K, S, TWO, false>(&source, bias)
            }
        };
        for (row, result) in result.iter_mut().enumerate().take(if TWO { 2 } else { 1 }) {
            activate(task.spec.act, result);
            // SAFETY: rows y and, with `TWO`, y + 1 are of the band; `out_width` pixels from x on exist.
            unsafe { task.store(result, [y + row, x], channel, source.lanes, out_width) };
            task.add_to_sums(result, channel, source.lanes, out_width);
        }
        source.input = source.input.wrapping_add(V::LANES);
        source.weight = source.weight.wrapping_add(V::LANES);
        channel += V::LANES;
    }
}
