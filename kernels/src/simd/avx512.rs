//! AVX-512, with and without its bf16 conversions.

use super::{Kernel, Simd};
use half::bf16;
use std::arch::x86_64::*;

/// Runs `kernel` with 16 lanes.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function has the features.
    unsafe { kernel.run::<Avx512>() }
}

/// Runs `kernel` with 16 lanes and the CPU's own rounding to bf16.
///
/// # Safety
/// The CPU has AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function has the features.
    unsafe { kernel.run::<Avx512Bf16>() }
}

/// Rounding to bf16 in integer arithmetic.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Rounding to bf16 by `vcvtneps2bf16`.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16;

/// The lanes below `lanes`.
#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    debug_assert!(lanes <= 16);
    ((1u32 << lanes) - 1) as __mmask16
}

/// Bit patterns rounded to the nearest even bf16; a NaN is made quiet so that its payload cannot round to infinity.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn round_to_bf16(v: __m512) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, rounded, quiet)))
    }
}

/// # Safety
/// The CPU has AVX-512 F and BF16.
#[inline(always)]
unsafe fn convert_to_bf16(v: __m512) -> __m256i {
    // SAFETY: the caller's promise; both are 256 plain bits.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)) }
}

macro_rules! lanes {
    ($name:ident, $to_bf16:ident) => {
        // SAFETY (all functions): the caller has the features and promises what it points to.
        impl Simd for $name {
            type V = __m512;
            const LANES: usize = 16;

            #[inline(always)]
            unsafe fn splat(x: f32) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_set1_ps(x) }
            }
            #[inline(always)]
            unsafe fn load_f32(from: *const f32) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_loadu_ps(from) }
            }
            #[inline(always)]
            unsafe fn load_f32_part(from: *const f32, lanes: usize) -> __m512 {
                // SAFETY: above; masked lanes are not touched.
                unsafe { _mm512_maskz_loadu_ps(mask(lanes), from) }
            }
            #[inline(always)]
            unsafe fn store_f32(to: *mut f32, v: __m512) {
                // SAFETY: above.
                unsafe { _mm512_storeu_ps(to, v) }
            }
            #[inline(always)]
            unsafe fn store_f32_part(to: *mut f32, v: __m512, lanes: usize) {
                // SAFETY: above; masked lanes are not touched.
                unsafe { _mm512_mask_storeu_ps(to, mask(lanes), v) }
            }
            #[inline(always)]
            unsafe fn load_bf16(from: *const bf16) -> __m512 {
                // SAFETY: above.
                unsafe {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
            }
            #[inline(always)]
            unsafe fn load_bf16_part(from: *const bf16, lanes: usize) -> __m512 {
                // SAFETY: above; masked lanes are not touched.
                unsafe {
                    let bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(lanes), from.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
            }
            #[inline(always)]
            unsafe fn store_bf16(to: *mut bf16, v: __m512) {
                // SAFETY: above.
                unsafe { _mm256_storeu_si256(to.cast(), $to_bf16(v)) }
            }
            #[inline(always)]
            unsafe fn store_bf16_part(to: *mut bf16, v: __m512, lanes: usize) {
                // SAFETY: above; masked lanes are not touched.
                unsafe { _mm256_mask_storeu_epi16(to.cast(), mask(lanes), $to_bf16(v)) }
            }
            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_sub_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                // SAFETY: above.
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            unsafe fn sum(v: __m512) -> f32 {
                // SAFETY: above.
                unsafe { _mm512_reduce_add_ps(v) }
            }
        }
    };
}

lanes!(Avx512, round_to_bf16);
lanes!(Avx512Bf16, convert_to_bf16);
