//! Packing B into panels, for weights once and for activations (K of Q·Kᵀ, V of P·V) in every tile.

use super::core::{PANEL, PackedView, packed_len, padded_k};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{DType, Element, Isa};

/// Packs B given as n rows of k (row stride `stride` elements) into `out`, e.g. K of Q·Kᵀ.
///
/// # Panics
/// If a slice is too short.
pub fn pack_rows<'a, T: Element>(
    isa: Isa,
    n: usize,
    k: usize,
    rows: &[T],
    stride: usize,
    out: &'a mut [T],
) -> PackedView<'a> {
    check(n, k, rows.len(), stride, packed_len::<T>(n, k), out.len());
    dispatch(isa, Rows { n, k, rows, stride, out: &mut *out });
    PackedView::new(n, k, out)
}

/// Packs B given as n rows of k f32 (row stride `stride`), rounded to T, into `out`.
///
/// # Panics
/// If a slice is too short.
pub fn pack_rows_f32<'a, T: Element>(
    isa: Isa,
    n: usize,
    k: usize,
    rows: &[f32],
    stride: usize,
    out: &'a mut [T],
) -> PackedView<'a> {
    check(n, k, rows.len(), stride, packed_len::<T>(n, k), out.len());
    dispatch(isa, Rows { n, k, rows, stride, out: &mut *out });
    PackedView::new(n, k, out)
}

/// Packs B given transposed, as k rows of n (row stride `stride` elements), into `out`, e.g. V of P·V.
///
/// # Panics
/// If a slice is too short.
pub fn pack_columns<'a, T: Element>(
    isa: Isa,
    n: usize,
    k: usize,
    rows: &[T],
    stride: usize,
    out: &'a mut [T],
) -> PackedView<'a> {
    check(k, n, rows.len(), stride, packed_len::<T>(n, k), out.len());
    dispatch(isa, Columns { n, k, rows, stride, out: &mut *out });
    PackedView::new(n, k, out)
}

/// Packs B given transposed, as k rows of n f32 (row stride `stride`), rounded to T, into `out`.
///
/// # Panics
/// If a slice is too short.
pub fn pack_columns_f32<'a, T: Element>(
    isa: Isa,
    n: usize,
    k: usize,
    rows: &[f32],
    stride: usize,
    out: &'a mut [T],
) -> PackedView<'a> {
    check(k, n, rows.len(), stride, packed_len::<T>(n, k), out.len());
    dispatch(isa, Columns { n, k, rows, stride, out: &mut *out });
    PackedView::new(n, k, out)
}

fn check(rows: usize, columns: usize, len: usize, stride: usize, packed: usize, out: usize) {
    assert!(stride >= columns && rows.saturating_sub(1) * stride + columns.min(rows * columns) <= len, "B's rows");
    assert!(packed <= out, "packed B takes {packed} elements, {out} are given");
}

/// Packs n rows of k: sixteen rows by sixteen 4-byte values (an f32 or a pair of bf16) are gathered and transposed at a time.
struct Rows<'a, S, T> {
    n: usize,
    k: usize,
    rows: &'a [S],
    stride: usize,
    out: &'a mut [T],
}

impl<S: Element, T: Element> Kernel for Rows<'_, S, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { n, k, rows, stride, out } = self;
        let depth = padded_k(T::DTYPE, k);
        let per_word = size_of::<u32>() / size_of::<T>();
        let step = PANEL * per_word;
        let mut block = Block([0; PANEL * PANEL]);
        for first in (0..n).step_by(PANEL) {
            for start in (0..depth).step_by(step) {
                let columns = step.min(k.saturating_sub(start));
                for i in 0..PANEL {
                    let count = if first + i < n { columns } else { 0 };
                    // SAFETY: row first + i has k values, `start + count` ≤ k; a row of the block holds `step` elements of T.
                    unsafe {
                        let from = rows.as_ptr().wrapping_add((first + i) * stride + start);
                        convert::<V, S, T>(from, count, block.0.as_mut_ptr().add(i * PANEL).cast(), step);
                    }
                }
                let words = PANEL.min((depth - start) / per_word);
                let at = first * depth + start * PANEL;
                if words == PANEL {
                    // SAFETY: sixteen rows of the panel are left in `out` (its length is checked by the callers).
                    unsafe { V::transpose(block.0.as_ptr(), out.as_mut_ptr().add(at).cast()) };
                } else {
                    let mut turned = Block([0; PANEL * PANEL]);
                    // SAFETY: both are blocks.
                    unsafe { V::transpose(block.0.as_ptr(), turned.0.as_mut_ptr()) };
                    let turned: &[T] = bytemuck::cast_slice(&turned.0[..words * PANEL]);
                    out[at..at + turned.len()].copy_from_slice(turned);
                }
            }
        }
    }
}

/// Sixteen rows of sixteen 4-byte values.
#[repr(align(64))]
struct Block([u32; PANEL * PANEL]);

/// Converts `count` elements and fills up with zeros to `len`, a multiple of the vector length.
///
/// # Safety
/// `from` is valid for `count` ≤ `len` reads, `to` for `len` writes.
#[inline(always)]
unsafe fn convert<V: Vector, S: Element, T: Element>(from: *const S, count: usize, to: *mut T, len: usize) {
    for i in (0..len).step_by(V::LANES) {
        // SAFETY: as the caller promises; loads are masked to `count`.
        unsafe {
            let value: V = if i + V::LANES <= count {
                V::load_as(from.add(i))
            } else if i < count {
                V::load_partial_as(from.add(i), count - i)
            } else {
                V::zero()
            };
            value.store_as(to.add(i));
        }
    }
}

/// Packs k rows of n: a panel row is sixteen neighbours, or the pairs of two times sixteen.
struct Columns<'a, S, T> {
    n: usize,
    k: usize,
    rows: &'a [S],
    stride: usize,
    out: &'a mut [T],
}

impl<S: Element, T: Element> Kernel for Columns<'_, S, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { n, k, rows, stride, out } = self;
        let depth = padded_k(T::DTYPE, k);
        let pair = if T::DTYPE == DType::Bf16 { 2 } else { 1 };
        for first in (0..n).step_by(PANEL) {
            for l in (0..depth).step_by(pair) {
                for j in (0..PANEL).step_by(V::LANES) {
                    let count = V::LANES.min(n.saturating_sub(first + j));
                    let at = rows.as_ptr().wrapping_add(l * stride + first + j);
                    // SAFETY: rows below k hold n values; a panel row of `out` holds 16 elements or pairs.
                    unsafe {
                        let value: V = if l < k { load_some(at, count) } else { V::zero() };
                        let to = out.as_mut_ptr().add(first * depth + l * PANEL + j * pair);
                        if pair == 1 {
                            value.store_as(to);
                        } else {
                            let next: V = if l + 1 < k { load_some(at.wrapping_add(stride), count) } else { V::zero() };
                            V::store_bf16_pairs(value, next, to.cast());
                        }
                    }
                }
            }
        }
    }
}

/// `count` ≤ LANES elements, zeros behind them.
///
/// # Safety
/// `from` is valid for `count` reads.
#[inline(always)]
unsafe fn load_some<V: Vector, S: Element>(from: *const S, count: usize) -> V {
    // SAFETY: as the caller promises.
    unsafe {
        match count {
            0 => V::zero(),
            _ => load(from, count),
        }
    }
}
