//! Micro-kernels on `vdpbf16ps`: sixteen columns, two k per instruction.

use super::core::{PANEL, Product};
use crate::bf16;
use std::arch::x86_64::*;

/// bf16 product.
///
/// # Safety
/// The CPU has AVX-512 BF16 and the sizes in `product` are right.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn tile(product: Product<'_, bf16>) {
    let (m, columns) = (product.m, &product.columns);
    let panels = columns.len().div_ceil(PANEL);
    let mut panel = 0;
    while panel < panels {
        let width = if panels - panel == 1 { 1 } else { 2 };
        let strips = m.div_ceil(12);
        let mut row = 0;
        for strip in 0..strips {
            let rows = (m - row).div_ceil(strips - strip);
            macro_rules! by_rows {
                ($nv:literal: $($mr:literal)*) => {
                    match rows {
                        // SAFETY: the block lies inside the product.
                        $($mr => unsafe { micro::<$mr, $nv>(&product, row, panel) },)*
                        _ => unreachable!("strips have at most 12 rows"),
                    }
                };
            }
            if width == 2 {
                by_rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12);
            } else {
                by_rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12);
            }
            row += rows;
        }
        panel += width;
    }
}

/// `MR` rows by `NV` panels of C.
///
/// # Safety
/// The block at `row` and `panel` lies inside the product.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn micro<const MR: usize, const NV: usize>(product: &Product<'_, bf16>, row: usize, panel: usize) {
    let Product { a, lda, b, columns, c, ldc, accumulate, .. } = product;
    let (k, lda) = (b.k(), *lda);
    let mut sums = [[_mm512_setzero_ps(); NV]; MR];
    // SAFETY: the rows and panels of the block; of an odd k the last element is read alone.
    unsafe {
        let a = a.add(row * lda);
        let mut from = b.panel(columns.start + panel * PANEL);
        for pair in 0..k / 2 {
            let vectors: [__m512bh; NV] = load(from, b.panel_bytes());
            for i in 0..MR {
                let value = a.add(i * lda + 2 * pair).cast::<i32>().read_unaligned();
                accumulate_row(&mut sums[i], value, &vectors);
            }
            from = from.add(4 * PANEL);
        }
        if k % 2 == 1 {
            let vectors: [__m512bh; NV] = load(from, b.panel_bytes());
            for i in 0..MR {
                let value = i32::from((*a.add(i * lda + k - 1)).to_bits());
                accumulate_row(&mut sums[i], value, &vectors);
            }
        }
        for i in 0..MR {
            for v in 0..NV {
                let start = (panel + v) * PANEL;
                let count = PANEL.min(columns.len() - start);
                let mask = ((1u32 << count) - 1) as __mmask16;
                let to = c.add((row + i) * ldc + start);
                let mut sum = sums[i][v];
                if *accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to));
                }
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// One pair row of `NV` panels.
///
/// # Safety
/// `from` points to a pair row; panels are `panel_bytes` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn load<const NV: usize>(from: *const u8, panel_bytes: usize) -> [__m512bh; NV] {
    // SAFETY: any bits are bf16 pairs; reads as the caller promises.
    std::array::from_fn(|v| unsafe {
        std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(from.add(v * panel_bytes).cast()))
    })
}

/// Adds a pair of A times the vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn accumulate_row<const NV: usize>(sums: &mut [__m512; NV], pair: i32, vectors: &[__m512bh; NV]) {
    // SAFETY: any bits are bf16 pairs.
    let pair = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair)) };
    for v in 0..NV {
        sums[v] = _mm512_dpbf16_ps(sums[v], pair, vectors[v]);
    }
}

/// `steps` rounds of independent `vdpbf16ps` on registers; the operations they do.
///
/// # Safety
/// The CPU has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn peak(steps: usize) -> f64 {
    const CHAINS: usize = 12;
    let mut sums = [[_mm512_setzero_ps(); 1]; CHAINS];
    let one = std::hint::black_box(0x3f80_3f80);
    // SAFETY: any bits are bf16 pairs.
    let vectors = unsafe { [std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(one))] };
    for _ in 0..steps {
        for sum in &mut sums {
            accumulate_row(sum, one, &vectors);
        }
    }
    for sum in sums {
        std::hint::black_box(_mm512_reduce_add_ps(sum[0]));
    }
    (steps * CHAINS * 64) as f64
}
