//! Packing B into panels, for weights once and for activations (K of Q·Kᵀ, V of P·V) in every tile.

use super::core::{PANEL, PackedView, packed_len, padded_k};
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
    let _ = isa;
    check(n, k, rows.len(), stride, packed_len::<T>(n, k), out.len());
    fill(n, k, out, |row, column| rows[row * stride + column]);
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
    let _ = isa;
    check(n, k, rows.len(), stride, packed_len::<T>(n, k), out.len());
    fill(n, k, out, |row, column| T::from_f32(rows[row * stride + column]));
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
    let _ = isa;
    check(k, n, rows.len(), stride, packed_len::<T>(n, k), out.len());
    fill(n, k, out, |row, column| rows[column * stride + row]);
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
    let _ = isa;
    check(k, n, rows.len(), stride, packed_len::<T>(n, k), out.len());
    fill(n, k, out, |row, column| T::from_f32(rows[column * stride + row]));
    PackedView::new(n, k, out)
}

fn check(rows: usize, columns: usize, len: usize, stride: usize, packed: usize, out: usize) {
    assert!(stride >= columns && rows.saturating_sub(1) * stride + columns.min(rows * columns) <= len, "B's rows");
    assert!(packed <= out, "packed B takes {packed} elements, {out} are given");
}

/// Fills the packed layout with `b(n, k)`, zeros as padding.
#[inline(always)]
fn fill<T: Element>(n: usize, k: usize, out: &mut [T], b: impl Fn(usize, usize) -> T) {
    let depth = padded_k(T::DTYPE, k);
    let pair = if T::DTYPE == DType::Bf16 { 2 } else { 1 };
    for (panel, out) in out.chunks_exact_mut(depth.max(1) * PANEL).take(n.div_ceil(PANEL)).enumerate() {
        for (index, value) in out.iter_mut().enumerate() {
            let row = panel * PANEL + index / pair % PANEL;
            let column = index / (pair * PANEL) * pair + index % pair;
            *value = if row < n && column < k { b(row, column) } else { T::default() };
        }
    }
}
