//! What backward kernels share: where a gradient goes, and sums of parameter gradients in a fixed order.
//!
//! The gradient of an activation has the activation's element type and is written or added to what is there, see
//! [`Gradient`]. The gradient of a parameter is f32 and always added to (`+=`), so that micro-batches sum up.

use crate::context::{Disjoint, cut};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};

/// Where the gradient of an activation goes.
pub struct Gradient<'a, T> {
    /// As many elements as the activation, in its layout.
    pub values: &'a mut [T],
    /// Whether the gradient is added to what is there (the activation has another reader), or overwrites it.
    pub accumulate: bool,
}

impl<'a, T> Gradient<'a, T> {
    /// Overwrites `values`.
    pub fn overwrite(values: &'a mut [T]) -> Self {
        Self { values, accumulate: false }
    }

    /// Adds to `values`.
    pub fn add_to(values: &'a mut [T]) -> Self {
        Self { values, accumulate: true }
    }

    /// The same, to be shared by the tasks of a kernel.
    pub(crate) fn share(self) -> SharedGradient<'a, T> {
        SharedGradient { values: Disjoint::new(self.values), accumulate: self.accumulate }
    }
}

/// A [`Gradient`] whose disjoint parts are written by several tasks.
#[derive(Clone, Copy)]
pub(crate) struct SharedGradient<'a, T> {
    pub(crate) values: Disjoint<'a, T>,
    pub(crate) accumulate: bool,
}

impl<T: Element> SharedGradient<'_, T> {
    /// Puts `rows` rows of `columns` f32 values, `stride` apart in `from`, to `start + row · to_stride`.
    ///
    /// # Safety
    /// Nobody else uses those elements meanwhile.
    ///
    /// # Panics
    /// If a row is outside.
    pub(crate) unsafe fn put(
        &self,
        isa: Isa,
        (rows, columns): (usize, usize),
        (from, stride): (&[f32], usize),
        (start, to_stride): (usize, usize),
    ) {
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * stride + columns <= from.len(), "{rows} rows of {columns}, {stride} apart");
        assert!(columns <= to_stride || rows == 1, "rows of {columns}, {to_stride} apart");
        // SAFETY: only used inside the rows, which are the caller's.
        let to = unsafe { self.values.slice(start, (rows - 1) * to_stride + columns) }.as_mut_ptr();
        let from = from.as_ptr();
        dispatch(isa, Put { rows, columns, from, stride, to, to_stride, accumulate: self.accumulate });
    }
}

struct Put<T> {
    rows: usize,
    columns: usize,
    from: *const f32,
    stride: usize,
    to: *mut T,
    to_stride: usize,
    accumulate: bool,
}

impl<T: Element> Kernel for Put<T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, columns, from, stride, to, to_stride, accumulate } = self;
        for row in 0..rows {
            let mut i = 0;
            while i < columns {
                let count = V::LANES.min(columns - i);
                // SAFETY: inside the rows that `SharedGradient::put` has checked.
                unsafe {
                    let value: V = load(from.add(row * stride + i), count);
                    put(value, to.add(row * to_stride + i), count, accumulate);
                }
                i += count;
            }
        }
    }
}

/// Stores `count` ≤ LANES elements of a gradient, or adds them to what is there.
///
/// # Safety
/// `to` is valid for `count` reads and writes.
#[inline(always)]
pub(crate) unsafe fn put<V: Vector, T: Element>(value: V, to: *mut T, count: usize, accumulate: bool) {
    // SAFETY: as the caller promises.
    unsafe {
        let value = if accumulate { value.add(load(to, count)) } else { value };
        store(value, to, count);
    }
}

/// `sums[i] += Σ_t partial[t, i]` in the order of t: partial [tasks, sums.len()].
///
/// # Panics
/// If `partial` is no whole number of rows.
pub(crate) fn add_partials(ctx: &mut Context, partial: &[f32], sums: &mut [f32]) {
    let n = sums.len();
    if n == 0 {
        return;
    }
    assert!(partial.len().is_multiple_of(n), "{} partial sums of {n}", partial.len());
    let isa = ctx.isa();
    let pieces = cut(n, n.div_ceil(1 << 10), 64);
    let sums = Disjoint::new(sums);
    ctx.parallel(pieces.len(), 0, |index, _| {
        let piece = pieces[index].clone();
        // SAFETY: pieces do not overlap.
        let sums = unsafe { sums.slice(piece.start, piece.len()) };
        dispatch(isa, AddPartials { partial: &partial[piece.start..], stride: n, sums });
    });
}

struct AddPartials<'a> {
    /// From the first value of the piece on.
    partial: &'a [f32],
    stride: usize,
    sums: &'a mut [f32],
}

impl Kernel for AddPartials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { partial, stride, sums } = self;
        let n = sums.len();
        let rows = (partial.len() + stride - n) / stride;
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: row · stride + i + count stays inside the last row's piece.
            unsafe {
                let mut sum = V::zero();
                for row in 0..rows {
                    sum = sum.add(load(partial.as_ptr().add(row * stride + i), count));
                }
                put(sum, sums.as_mut_ptr().add(i), count, true);
            }
            i += count;
        }
    }
}
