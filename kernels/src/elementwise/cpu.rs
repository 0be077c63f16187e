//! The CPU twin: runs of rows are the tasks; every step is a pass over memory, so nothing is blocked for cache.

use super::{ElementwiseOp, ElementwiseOperands, ElementwiseSpec};
use crate::context::Disjoint;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element};
use std::ops::Range;

/// Elements of one task.
const TASK: usize = 1 << 15;

/// Runs the kernel.
///
/// # Panics
/// If an operand that the op needs is missing or its length is not what the spec says.
pub fn elementwise<T: Element>(ctx: &mut Context, spec: &ElementwiseSpec, operands: ElementwiseOperands<T>) {
    let ElementwiseOperands { x, other, factors, statistics, out } = operands;
    let channels = spec.channels;
    assert_eq!(out.len(), spec.len(), "out");
    assert!(x.is_none_or(|x| x.len() == spec.len()), "x");
    if spec.is_empty() {
        return;
    }
    match spec.op {
        // Rows mean nothing here: long ones leave fewer incomplete vectors.
        ElementwiseOp::Act(act) => run(ctx, spec.len(), spec.len().min(TASK), x, out, &Activate(act)),
        ElementwiseOp::Add { other_rows } => {
            let other = other.expect("Add has an other operand");
            assert_eq!(other.len(), other_rows * channels, "other");
            assert!(other_rows > 0 && spec.rows.is_multiple_of(other_rows), "{} rows of {other_rows}", spec.rows);
            run(ctx, spec.len(), channels, x, out, &Add { other, other_rows, channels });
        }
        ElementwiseOp::Scale => {
            assert_eq!(factors.len(), channels, "scale");
            run(ctx, spec.len(), channels, x, out, &Factor { factors, rows_per_factor: spec.rows, channels });
        }
        ElementwiseOp::Gate { rows_per_gate } => {
            assert!(rows_per_gate > 0 && spec.rows.is_multiple_of(rows_per_gate), "{} rows", spec.rows);
            assert_eq!(factors.len(), spec.rows / rows_per_gate * channels, "gate");
            run(ctx, spec.len(), channels, x, out, &Factor { factors, rows_per_factor: rows_per_gate, channels });
        }
        ElementwiseOp::BatchNorm { eps } => {
            let statistics = statistics.expect("BatchNorm has statistics");
            assert!(statistics.iter().all(|s| s.len() == channels), "statistics");
            let [weight, bias, mean, variance] = statistics;
            let factor: Vec<f32> = weight.iter().zip(variance).map(|(w, v)| w / (v + eps).sqrt()).collect();
            run(ctx, spec.len(), channels, x, out, &Normalise { mean, factor: &factor, bias });
        }
    }
}

/// What happens to some lanes of a row.
trait Step: Sync {
    /// The result for the `count` ≤ LANES channels from `channel` on of row `row`.
    ///
    /// # Safety
    /// Row and channels are inside the spec's.
    unsafe fn apply<V: Vector>(&self, x: V, row: usize, channel: usize, count: usize) -> V;
}

struct Activate(Act);

impl Step for Activate {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, x: V, _: usize, _: usize, _: usize) -> V {
        self.0.apply(x)
    }
}

struct Add<'a, T> {
    other: &'a [T],
    other_rows: usize,
    channels: usize,
}

impl<T: Element> Step for Add<'_, T> {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, x: V, row: usize, channel: usize, count: usize) -> V {
        // SAFETY: `other` has `other_rows` rows, and the channels are inside a row.
        x.add(unsafe { load(self.other.as_ptr().add(row % self.other_rows * self.channels + channel), count) })
    }
}

struct Factor<'a> {
    factors: &'a [f32],
    rows_per_factor: usize,
    channels: usize,
}

impl Step for Factor<'_> {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, x: V, row: usize, channel: usize, count: usize) -> V {
        // SAFETY: there is a row of factors for every `rows_per_factor` rows, and the channels are inside it.
        x.mul(unsafe { load(self.factors.as_ptr().add(row / self.rows_per_factor * self.channels + channel), count) })
    }
}

struct Normalise<'a> {
    mean: &'a [f32],
    factor: &'a [f32],
    bias: &'a [f32],
}

impl Step for Normalise<'_> {
    #[inline(always)]
    unsafe fn apply<V: Vector>(&self, x: V, _: usize, channel: usize, count: usize) -> V {
        // SAFETY: all three have a value per channel.
        unsafe {
            let mean = load::<V, f32>(self.mean.as_ptr().add(channel), count);
            let factor = load(self.factor.as_ptr().add(channel), count);
            x.sub(mean).mul_add(factor, load(self.bias.as_ptr().add(channel), count))
        }
    }
}

/// Applies `step` to rows of `row_len` of the `len` elements (the last row may be shorter) in parallel.
fn run<T: Element>(ctx: &mut Context, len: usize, row_len: usize, x: Option<&[T]>, out: &mut [T], step: &impl Step) {
    let rows = len.div_ceil(row_len);
    let rows_per_task = (TASK / row_len).max(1);
    let out = Disjoint::new(out);
    let isa = ctx.isa();
    ctx.parallel(rows.div_ceil(rows_per_task), 0, |task, _| {
        let rows = task * rows_per_task..rows.min((task + 1) * rows_per_task);
        let elements = rows.start * row_len..len.min(rows.end * row_len);
        // SAFETY: each task has its own rows.
        let out = unsafe { out.slice(elements.start, elements.len()) };
        let to = out.as_mut_ptr();
        let from = x.map_or(to.cast_const(), |x| x[elements.clone()].as_ptr());
        dispatch(isa, Rows { from, to, len: elements.len(), rows, row_len, step });
    });
}

/// One task: `len` elements at `from` and `to`, which may be the same.
struct Rows<'a, T, S> {
    from: *const T,
    to: *mut T,
    len: usize,
    rows: Range<usize>,
    row_len: usize,
    step: &'a S,
}

impl<T: Element, S: Step> Kernel for Rows<'_, T, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (index, row) in self.rows.enumerate() {
            let start = index * self.row_len;
            let row_len = self.row_len.min(self.len - start);
            // SAFETY: `start + row_len` ≤ `len`, and channels stay below `row_len`.
            unsafe {
                let (from, to) = (self.from.add(start), self.to.add(start));
                let mut channel = 0;
                while channel < row_len {
                    let count = V::LANES.min(row_len - channel);
                    let v = self.step.apply(load::<V, T>(from.add(channel), count), row, channel, count);
                    store(v, to.add(channel), count);
                    channel += count;
                }
            }
        }
    }
}
