//! Transposing tiles of 8 × 8 elements of 16 bits: 128 bytes, row after row, which is how a fragment's register lies.

/// A tile transposed.
#[inline(always)]
pub(super) fn transpose(tile: &[u32; 32]) -> [u32; 32] {
    #[cfg(target_arch = "x86_64")]
    {
        transpose_x86(tile)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        transpose_plainly(tile)
    }
}

/// Element by element.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub(super) fn transpose_plainly(tile: &[u32; 32]) -> [u32; 32] {
    let element = |row: usize, column: usize| tile[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|word| {
        let (row, column) = (word / 4, word % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}

/// With SSE2, which all x86-64 machines have.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn transpose_x86(tile: &[u32; 32]) -> [u32; 32] {
    use std::arch::x86_64::*;
    let mut result = [0u32; 32];
    // SAFETY: SSE2 is part of x86-64; all addresses lie within the two arrays.
    unsafe {
        let rows: [__m128i; 8] = std::array::from_fn(|row| _mm_loadu_si128(tile.as_ptr().add(4 * row).cast()));
        // Pairs of rows, then fours, then all eight side by side.
        let low = |a: usize| _mm_unpacklo_epi16(rows[a], rows[a + 1]);
        let high = |a: usize| _mm_unpackhi_epi16(rows[a], rows[a + 1]);
        let pairs = [[low(0), high(0)], [low(2), high(2)], [low(4), high(4)], [low(6), high(6)]];
        for half in 0..2 {
            let [a, b, c, d] = [pairs[0][half], pairs[1][half], pairs[2][half], pairs[3][half]];
            let fours = [
                [_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d)],
                [_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d)],
            ];
            for (k, [top, bottom]) in fours.into_iter().enumerate() {
                let columns = [_mm_unpacklo_epi64(top, bottom), _mm_unpackhi_epi64(top, bottom)];
                for (j, column) in columns.into_iter().enumerate() {
                    _mm_storeu_si128(result.as_mut_ptr().add(4 * (4 * half + 2 * k + j)).cast(), column);
                }
            }
        }
    }
    result
}
