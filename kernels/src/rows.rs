//! Operations on rows that many kernels share: layer norm, softmax's exponentials, conversions.

use crate::act::exp;
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
            let (mean, scale) = mean_and_scale::<V, T>(self.x.as_ptr(), n, self.eps);
            let (mean, scale) = (V::splat(mean), V::splat(scale));
            let mut i = 0;
            while i < n {
                let count = V::LANES.min(n - i);
                let x: V = load(self.x.as_ptr().add(i), count);
                let weight = load(self.weight.as_ptr().add(i), count);
                let bias = load(self.bias.as_ptr().add(i), count);
                store(x.sub(mean).mul(scale).mul_add(weight, bias), self.out.as_mut_ptr().add(i), count);
                i += count;
            }
        }
    }
}

/// Mean and 1/√(variance + ε) of n values, in two passes.
///
/// # Safety
/// `x` is valid for n reads.
#[inline(always)]
pub(crate) unsafe fn mean_and_scale<V: Vector, T: Element>(x: *const T, n: usize, eps: f32) -> (f32, f32) {
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
        let mut squares = [V::zero(); 2];
        let mut i = 0;
        while i < whole {
            let d = V::load_as(x.add(i)).sub(center);
            squares[i / V::LANES % 2] = d.mul_add(d, squares[i / V::LANES % 2]);
            i += V::LANES;
        }
        let mut total = squares[0].add(squares[1]).reduce_add();
        for j in whole..n {
            let d = x.add(j).read().to_f32() - mean;
            total += d * d;
        }
        (mean, 1.0 / (total / n as f32 + eps).sqrt())
    }
}

/// Largest value of a row, −∞ if it is empty.
pub fn max_row(isa: Isa, x: &[f32]) -> f32 {
    dispatch(isa, Max(x))
}

struct Max<'a>(&'a [f32]);

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let x = self.0;
        let whole = x.len() / V::LANES * V::LANES;
        let mut most = V::splat(f32::NEG_INFINITY);
        for i in (0..whole).step_by(V::LANES) {
            // SAFETY: whole vectors lie inside the slice.
            most = most.max(unsafe { V::load(x.as_ptr().add(i)) });
        }
        x[whole..].iter().fold(most.reduce_max(), |a, b| a.max(*b))
    }
}

/// `out = e^(x − shift)`, rounded to T, and the sum of the values before rounding: softmax's middle. 2 ulp.
///
/// # Panics
/// If the slices differ in length.
pub fn exp_row<T: Element>(isa: Isa, x: &[f32], shift: f32, out: &mut [T]) -> f32 {
    assert_eq!(x.len(), out.len());
    dispatch(isa, Exp { x, shift, out })
}

struct Exp<'a, T> {
    x: &'a [f32],
    shift: f32,
    out: &'a mut [T],
}

impl<T: Element> Kernel for Exp<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<V: Vector>(self) -> f32 {
        let n = self.x.len();
        let (x, out, shift) = (self.x.as_ptr(), self.out.as_mut_ptr(), V::splat(self.shift));
        let whole = n / V::LANES * V::LANES;
        let mut sum = V::zero();
        let mut tail = 0.0;
        // SAFETY: both slices have n elements; tails are masked.
        unsafe {
            for i in (0..whole).step_by(V::LANES) {
                let value = exp(V::load(x.add(i)).sub(shift));
                sum = sum.add(value);
                value.store_as(out.add(i));
            }
            if whole < n {
                let value = exp(V::load_partial(x.add(whole), n - whole).sub(shift));
                value.store_partial_as(out.add(whole), n - whole);
                let mut lanes = [0.0f32; 16];
                value.store(lanes.as_mut_ptr());
                tail = lanes[..n - whole].iter().sum();
            }
        }
        sum.reduce_add() + tail
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
