//! Transposing keys with AVX-512, for vectors and tiles.

use super::geometry::MAX_TOKENS;
use super::head::{HEAD, MIN_LENGTH};
use crate::window_attention::WindowKind;
use std::arch::x86_64::*;

/// Rows and columns of a block that is transposed at once.
const ROWS: usize = 16;

/// Stands for the row of a padded token.
pub(super) const NO_ROW: u8 = u8::MAX;

/// The row of each position, given the position of each row.
#[inline]
pub(super) fn rows_of_tokens(tokens: &[u8]) -> [u8; MAX_TOKENS] {
    let mut row_of = [NO_ROW; MAX_TOKENS];
    for (row, token) in tokens.iter().enumerate() {
        row_of[usize::from(*token)] = row as u8;
    }
    row_of
}

/// Lays out the keys of a window as [32, 64], V2's divided by their length; zeros for padded tokens and behind the last.
///
/// # Safety
/// The CPU has AVX-512 F; `from` is good for 32 values for each of the rows, `to` for 32 · 64.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_keys(kind: WindowKind, tokens: &[u8], from: *const f32, stride: usize, to: *mut f32) {
    let row_of = rows_of_tokens(tokens);
    for block in 0..MAX_TOKENS / ROWS {
        let mut halves = [[_mm512_setzero_si512(); ROWS]; 2];
        for (i, row) in row_of[block * ROWS..(block + 1) * ROWS].iter().enumerate() {
            if *row == NO_ROW {
                continue;
            }
            // SAFETY: a row as the caller promises.
            let (mut low, mut high) = unsafe {
                let from = from.add(usize::from(*row) * stride);
                (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)))
            };
            if kind == WindowKind::V2 {
                let square = _mm512_reduce_add_ps(_mm512_fmadd_ps(low, low, _mm512_mul_ps(high, high)));
                let factor = _mm512_set1_ps(1.0 / square.sqrt().max(MIN_LENGTH));
                (low, high) = (_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor));
            }
            halves[0][i] = _mm512_castps_si512(low);
            halves[1][i] = _mm512_castps_si512(high);
        }
        for (half, rows) in halves.into_iter().enumerate() {
            for (d, keys) in transpose(rows).into_iter().enumerate() {
                // SAFETY: d of 32, block of 64.
                unsafe { _mm512_storeu_si512(to.add((half * HEAD / 2 + d) * MAX_TOKENS + block * ROWS).cast(), keys) };
            }
        }
    }
}

/// Transposes 16 × 16 words of 32 bits.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; ROWS]) -> [__m512i; ROWS] {
    let zero = _mm512_setzero_si512();
    // In every quarter of a register: 4 × 4 blocks of pairs, then of quadruples of rows.
    let mut pairs = [zero; ROWS];
    for i in 0..ROWS / 2 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut quads = [zero; ROWS];
    for i in 0..ROWS / 4 {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    // quads[4i + j] holds column 4q + j of rows 4i..4i + 4 in its quarter q; now the quarters are transposed.
    let mut columns = [zero; ROWS];
    for j in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(quads[j], quads[4 + j]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(quads[j], quads[4 + j]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(quads[8 + j], quads[12 + j]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(quads[8 + j], quads[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    columns
}
