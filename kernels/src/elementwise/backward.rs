//! Gradients of the elementwise operators, on the CPU. An addition's are its result's own, but for an operand that was repeated over
//! rows ([`sum_repeats`]).

use crate::act::with_act;
use crate::context::{Disjoint, cut, scratch_bytes};
use crate::gemm::backward::ColumnSums;
use crate::gradient::{Gradient, add_partials, put};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element};

/// Elements of one task.
const TASK: usize = 1 << 15;

/// `d_x (+)= d_out · act′(x)`, element by element.
///
/// # Panics
/// If the operands differ in length.
pub fn act_backward<T: Element>(ctx: &mut Context, act: Act, x: &[T], d_out: &[T], d_x: Gradient<'_, T>) {
    let len = x.len();
    assert_eq!((d_out.len(), d_x.values.len()), (len, len), "d_out and d_x");
    let isa = ctx.isa();
    let d_x = d_x.share();
    ctx.parallel(len.div_ceil(TASK), 0, |task, _| {
        let range = task * TASK..len.min((task + 1) * TASK);
        // SAFETY: each task has its own elements.
        let to = unsafe { d_x.values.slice(range.start, range.len()) };
        dispatch(isa, Derive { act, x: &x[range.clone()], d_out: &d_out[range], to, accumulate: d_x.accumulate });
    });
}

struct Derive<'a, T> {
    act: Act,
    x: &'a [T],
    d_out: &'a [T],
    to: &'a mut [T],
    accumulate: bool,
}

impl<T: Element> Kernel for Derive<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_act!(self.act, ACT => self.all::<V>(ACT))
    }
}

impl<T: Element> Derive<'_, T> {
    #[inline(always)]
    fn all<V: Vector>(self, act: Act) {
        let Self { x, d_out, to, accumulate, .. } = self;
        let mut i = 0;
        while i < x.len() {
            let count = V::LANES.min(x.len() - i);
            // SAFETY: all three have as many elements.
            unsafe {
                let slope = act.derivative::<V>(load(x.as_ptr().add(i), count));
                let value = load::<V, T>(d_out.as_ptr().add(i), count).mul(slope);
                put(value, to.as_mut_ptr().add(i), count, accumulate);
            }
            i += count;
        }
    }
}

/// Gradient of a factor per channel and group of rows: `d_factor[g, c] (+)= Σ_r d_out[r, c] · x[r, c]` over the `rows_per_group` rows of
/// group g. With one group of all rows this is a layer scale's, with one per image a gate's. The data's gradient is d_out times the factor,
/// the forward operator.
///
/// # Panics
/// If an operand's length is not what the sizes say.
pub fn factor_backward<T: Element>(
    ctx: &mut Context,
    [groups, rows_per_group, channels]: [usize; 3],
    x: &[T],
    d_out: &[T],
    d_factor: Gradient<'_, f32>,
) {
    let rows = groups * rows_per_group;
    assert_eq!((x.len(), d_out.len()), (rows * channels, rows * channels), "x and d_out");
    assert_eq!(d_factor.values.len(), groups * channels, "d_factor");
    let isa = ctx.isa();
    let rows_per_task = (TASK / channels.max(1)).max(16);
    let tasks = rows_per_group.div_ceil(rows_per_task);
    if !d_factor.accumulate {
        d_factor.values.fill(0.0);
    }
    ctx.with_shared(scratch_bytes::<f32>(groups * tasks * channels), |ctx, mut shared| {
        let partial = shared.take::<f32>(groups * tasks * channels);
        let sums = Disjoint::new(&mut *partial);
        ctx.parallel(groups * tasks, 0, |task, _| {
            let (group, part) = (task / tasks, task % tasks);
            let first = group * rows_per_group + part * rows_per_task;
            let last = (first + rows_per_task).min((group + 1) * rows_per_group);
            let range = first * channels..last * channels;
            // SAFETY: each task has its own sums.
            let sums = unsafe { sums.slice(task * channels, channels) };
            dispatch(isa, Products { x: &x[range.clone()], d_out: &d_out[range], sums });
        });
        for group in 0..groups {
            let partial = &partial[group * tasks * channels..][..tasks * channels];
            add_partials(ctx, partial, &mut d_factor.values[group * channels..][..channels]);
        }
    });
}

struct Products<'a, T> {
    x: &'a [T],
    d_out: &'a [T],
    /// Overwritten.
    sums: &'a mut [f32],
}

impl<T: Element> Kernel for Products<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, d_out, sums } = self;
        let channels = sums.len();
        let rows = x.len() / channels.max(1);
        let mut channel = 0;
        while channel < channels {
            let count = V::LANES.min(channels - channel);
            // SAFETY: rows and channels are inside x, d_out and the sums.
            unsafe {
                let (x, d_out) = (x.as_ptr().add(channel), d_out.as_ptr().add(channel));
                let mut total = [V::zero(); 4];
                for row in 0..rows {
                    let value: V = load(x.add(row * channels), count);
                    total[row % 4] = value.mul_add(load(d_out.add(row * channels), count), total[row % 4]);
                }
                let total = total[0].add(total[1]).add(total[2].add(total[3]));
                store(total, sums.as_mut_ptr().add(channel), count);
            }
            channel += count;
        }
    }
}

/// Gradient of an operand of `other_rows` rows that was repeated over `rows` rows: `d_other[r, c] (+)= Σ_i d_out[i·other_rows + r, c]`.
///
/// # Panics
/// If an operand's length is not what the sizes say.
pub fn sum_repeats<T: Element>(ctx: &mut Context, other_len: usize, d_out: &[T], d_other: Gradient<'_, T>) {
    assert_eq!(d_other.values.len(), other_len, "d_other");
    assert!(other_len > 0 && d_out.len().is_multiple_of(other_len), "{} values of {other_len}", d_out.len());
    let isa = ctx.isa();
    let pieces = cut(other_len, other_len.div_ceil(1 << 12), 64);
    let d_other = d_other.share();
    ctx.parallel(pieces.len(), scratch_bytes::<f32>(1 << 12), |task, mut scratch| {
        let piece = pieces[task].clone();
        let sums = scratch.take::<f32>(piece.len());
        let rows = d_out.len() / other_len;
        dispatch(isa, ColumnSums { x: &d_out[piece.start..], stride: other_len, rows, sums });
        // SAFETY: pieces do not overlap.
        unsafe { d_other.put(isa, (1, piece.len()), (sums, piece.len()), (piece.start, piece.len())) };
    });
}
