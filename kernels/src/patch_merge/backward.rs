//! Gradient of the patch gather, on the CPU: every input pixel is one neighbour of one output pixel.

use super::PatchGatherSpec;
use crate::gradient::Gradient;
use crate::resample::backward::move_row;
use crate::resample::cpu::rows_per_task;
use crate::{Context, Element};

/// `d_x[b, 2y + i, 2x + j] = d_out[b, y, x, (2j + i)·C..]`: d_out [batch, ⌈h/2⌉, ⌈w/2⌉, 4C], d_x [batch, h, w, C]. What
/// neighbours outside an odd-sized map get is dropped.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn patch_gather_backward<T: Element>(ctx: &mut Context, spec: &PatchGatherSpec, d_out: &[T], d_x: Gradient<'_, T>) {
    let PatchGatherSpec { batch, input: [height, width], channels } = *spec;
    let [rows, columns] = spec.output();
    assert_eq!(d_out.len(), batch * rows * columns * 4 * channels, "d_out");
    assert_eq!(d_x.values.len(), batch * height * width * channels, "d_x");
    let isa = ctx.isa();
    let d_x = d_x.share();
    let row_len = width * channels;
    let per_task = rows_per_task(row_len);
    ctx.parallel((batch * height).div_ceil(per_task), 0, |task, _| {
        for row in task * per_task..(batch * height).min((task + 1) * per_task) {
            let (image, y) = (row / height, row % height);
            // SAFETY: each task has its own rows.
            let to = unsafe { d_x.values.slice(row * row_len, row_len) };
            for (x, to) in to.chunks_exact_mut(channels.max(1)).enumerate() {
                let output = (image * rows + y / 2) * columns + x / 2;
                let neighbour = 2 * (x % 2) + y % 2;
                move_row(isa, &d_out[(output * 4 + neighbour) * channels..][..channels], to, d_x.accumulate);
            }
        }
    });
}
