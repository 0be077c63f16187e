//! The CPU twin: runs of rows are the tasks, a row stays in L1 over its three passes.

use super::{LayerNormOperands, LayerNormSpec};
use crate::context::Disjoint;
use crate::rows::{load, moments, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Elements of one task, about.
const TASK: usize = 1 << 14;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn layer_norm<T: Element>(ctx: &mut Context, spec: &LayerNormSpec, operands: LayerNormOperands<T>) {
    let LayerNormOperands { x, weight, bias, out } = operands;
    let LayerNormSpec { rows, channels, eps } = *spec;
    assert_eq!(out.len(), rows * channels, "out");
    assert!(x.is_none_or(|x| x.len() == rows * channels), "x");
    assert_eq!((weight.len(), bias.len()), (channels, channels), "weight and bias");
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    let rows_per_task = (TASK / channels.max(1)).max(1);
    ctx.parallel(rows.div_ceil(rows_per_task), 0, |task, _| {
        let start = task * rows_per_task * channels;
        let len = rows_per_task.min(rows - task * rows_per_task) * channels;
        // SAFETY: each task has its own rows.
        let to = unsafe { out.slice(start, len) }.as_mut_ptr();
        let from = x.map_or(to.cast_const(), |x| x[start..start + len].as_ptr());
        dispatch(isa, Rows { from, to, len, weight, bias, eps });
    });
}

/// One task: `len` elements at `from` and `to`, which may be the same.
struct Rows<'a, T> {
    from: *const T,
    to: *mut T,
    len: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
}

impl<T: Element> Kernel for Rows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.weight.len();
        let (weight, bias) = (self.weight.as_ptr(), self.bias.as_ptr());
        for start in (0..self.len).step_by(channels.max(1)) {
            // SAFETY: rows lie inside `len`, weight and bias are as long as a row; an element is read before it is written.
            unsafe {
                let (from, to) = (self.from.add(start), self.to.add(start));
                let moments = moments::<V, T>(from, channels, self.eps);
                let mut i = 0;
                while i < channels {
                    let count = V::LANES.min(channels - i);
                    let normal = moments.normalise(load::<V, T>(from.add(i), count));
                    store(normal.mul_add(load(weight.add(i), count), load(bias.add(i), count)), to.add(i), count);
                    i += count;
                }
            }
        }
    }
}
