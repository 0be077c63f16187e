//! Operations on rows that many kernels share: layer norm, softmax's exponentials, conversions.

use crate::simd::{Kernel, Vector, dispatch};
use crate::{Element, Isa};

/// Layer norm of one row: `out = (x − mean)/√(var + eps)·weight + bias`, biased variance, two passes, f32 statistics.
///
/// # Panics
/// If the slices differ in length.
pub fn normalize_row<T: Element, U: Element>(isa: Isa, x: &[T], weight: &[f32], bias: &[f32], eps: f32, out: &mut [U]) {
    assert!(x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len(), "a row of {}", x.len());
    dispatch(isa, Normalize { x, weight, bias, eps, out });
}

/// [`normalize_row`] for rows of `k` that lie one after another. `out` may be longer than `x`.
///
/// # Panics
/// If `x` is no whole number of rows or `out` is shorter than `x`.
pub fn normalize_rows<T: Element, U: Element>(
    isa: Isa,
    k: usize,
    x: &[T],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [U],
) {
    assert!(x.len().is_multiple_of(k) && x.len() <= out.len() && weight.len() == k && bias.len() == k, "rows of {k}");
    for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(k)) {
        dispatch(isa, Normalize { x, weight, bias, eps, out });
    }
}

struct Normalize<'a, T, U> {
    x: &'a [T],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [U],
}

impl<T: Element, U: Element> Kernel for Normalize<'_, T, U> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let n = self.x.len();
        // SAFETY: all slices have n elements, checked by `normalize_row`; tails are masked.
        unsafe {
            let moments = moments::<V, T>(self.x.as_ptr(), n, self.eps);
            let mut i = 0;
            while i < n {
                let count = V::LANES.min(n - i);
                let x: V = load(self.x.as_ptr().add(i), count);
                let weight = load(self.weight.as_ptr().add(i), count);
                let bias = load(self.bias.as_ptr().add(i), count);
                store(moments.normalise(x).mul_add(weight, bias), self.out.as_mut_ptr().add(i), count);
                i += count;
            }
        }
    }
}

/// Mean and 1/√(variance + ε) of a row.
///
/// The mean is in two parts: where it is large beside the spread, its rounding to f32 alone would be a visible shift.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    mean: f32,
    /// What rounding left of the mean.
    rest: f32,
    scale: f32,
}

impl Moments {
    /// (x − mean)/√(variance + ε)
    #[inline(always)]
    pub(crate) fn normalise<V: Vector>(self, x: V) -> V {
        x.sub(V::splat(self.mean)).sub(V::splat(self.rest)).mul(V::splat(self.scale))
    }

    /// 1/√(variance + ε)
    #[inline(always)]
    pub(crate) fn scale(self) -> f32 {
        self.scale
    }
}

/// Moments of n values, in two passes: the second sums differences from the first one's mean and their squares.
///
/// # Safety
/// `x` is valid for n reads.
#[inline(always)]
pub(crate) unsafe fn moments<V: Vector, T: Element>(x: *const T, n: usize, eps: f32) -> Moments {
    let whole = n / V::LANES * V::LANES;
    // SAFETY: whole vectors inside n, then the tail.
    unsafe {
        let mut sums = [V::zero(); 2];
        let mut i = 0;
        while i < whole {
            sums[i / V::LANES % 2] = sums[i / V::LANES % 2].add(V::load_as(x.add(i)));
            i += V::LANES;
        }
        let tail: V = if whole < n { V::load_partial_as(x.add(whole), n - whole) } else { V::zero() };
        let mean = sums[0].add(sums[1]).add(tail).reduce_add() / n as f32;
        let center = V::splat(mean);
        let (mut differences, mut squares) = ([V::zero(); 2], [V::zero(); 2]);
        let mut i = 0;
        while i < whole {
            let d = V::load_as(x.add(i)).sub(center);
            let turn = i / V::LANES % 2;
            differences[turn] = differences[turn].add(d);
            squares[turn] = d.mul_add(d, squares[turn]);
            i += V::LANES;
        }
        let mut difference = differences[0].add(differences[1]).reduce_add();
        let mut square = squares[0].add(squares[1]).reduce_add();
        for j in whole..n {
            let d = x.add(j).read().to_f32() - mean;
            difference += d;
            square += d * d;
        }
        let rest = difference / n as f32;
        let variance = (square / n as f32 - rest * rest).max(0.0);
        Moments { mean, rest, scale: 1.0 / (variance + eps).sqrt() }
    }
}

/// Converts a row between element types (bf16 by rounding to nearest even).
///
/// # Panics
/// If the slices differ in length.
pub fn convert_row<T: Element, U: Element>(isa: Isa, x: &[T], out: &mut [U]) {
    assert_eq!(x.len(), out.len());
    dispatch(isa, Scale { x, factor: None, out });
}

/// `out = x · factor`, element by element (a squeeze-excite gate).
///
/// # Panics
/// If the slices differ in length.
pub fn scale_row<T: Element, U: Element>(isa: Isa, x: &[T], factor: &[f32], out: &mut [U]) {
    assert!(x.len() == out.len() && x.len() == factor.len(), "a row of {}", x.len());
    dispatch(isa, Scale { x, factor: Some(factor), out });
}

struct Scale<'a, T, U> {
    x: &'a [T],
    factor: Option<&'a [f32]>,
    out: &'a mut [U],
}

impl<T: Element, U: Element> Kernel for Scale<'_, T, U> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let n = self.x.len();
        let mut i = 0;
        while i < n {
            let count = V::LANES.min(n - i);
            // SAFETY: all slices have n elements; tails are masked.
            unsafe {
                let mut value: V = load(self.x.as_ptr().add(i), count);
                if let Some(factor) = self.factor {
                    value = value.mul(load(factor.as_ptr().add(i), count));
                }
                store(value, self.out.as_mut_ptr().add(i), count);
            }
            i += count;
        }
    }
}

/// `count` ≤ LANES elements, widened.
///
/// # Safety
/// `from` is valid for `count` reads.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector, T: Element>(from: *const T, count: usize) -> V {
    // SAFETY: as the caller promises.
    unsafe { if count == V::LANES { V::load_as(from) } else { V::load_partial_as(from, count) } }
}

/// Stores `count` ≤ LANES elements, rounded to T.
///
/// # Safety
/// `to` is valid for `count` writes.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector, T: Element>(value: V, to: *mut T, count: usize) {
    // SAFETY: as the caller promises.
    unsafe { if count == V::LANES { value.store_as(to) } else { value.store_partial_as(to, count) } }
}
