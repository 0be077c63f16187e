//! The CPU twin.

use super::{Draw, StochasticDepthSpec};
use crate::context::Disjoint;
use crate::gradient::{Gradient, put};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element};

/// Elements of one task.
const TASK: usize = 1 << 15;

/// Runs the kernel: forward with the branch, backward with its gradient.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn stochastic_depth<T: Element>(
    ctx: &mut Context,
    spec: &StochasticDepthSpec,
    draw: Draw,
    x: &[T],
    out: Gradient<'_, T>,
) {
    let StochasticDepthSpec { batch, len, .. } = *spec;
    assert_eq!((x.len(), out.values.len()), (batch * len, batch * len), "x and out");
    let isa = ctx.isa();
    let tasks = len.div_ceil(TASK);
    let accumulate = out.accumulate;
    let out = Disjoint::new(out.values);
    ctx.parallel(batch * tasks, 0, |task, _| {
        let image = task / tasks;
        let start = image * len + task % tasks * TASK;
        let end = (start + TASK).min((image + 1) * len);
        // SAFETY: each task has its own elements.
        let to = unsafe { out.slice(start, end - start) };
        dispatch(isa, Scale { x: &x[start..end], factor: draw.factor(spec, image), to, accumulate });
    });
}

struct Scale<'a, T> {
    x: &'a [T],
    factor: f32,
    to: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for Scale<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, factor, to, accumulate } = self;
        let mut i = 0;
        while i < x.len() {
            let count = V::LANES.min(x.len() - i);
            // SAFETY: both slices have as many elements.
            unsafe {
                let value = load::<V, T>(x.as_ptr().add(i), count).mul(V::splat(factor));
                put(value, to.as_mut_ptr().add(i), count, accumulate);
            }
            i += count;
        }
    }
}
