//! AVX2 with FMA.

use super::{Kernel, Simd};
use half::bf16;
use std::arch::x86_64::*;

/// Runs `kernel` with 8 lanes.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: this function has the features.
    unsafe { kernel.run::<Avx2>() }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Ones in the lanes below `lanes`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn mask(lanes: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widen(bits: __m128i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits))) }
}

/// Bit patterns rounded to the nearest even bf16; a NaN is made quiet so that its payload cannot round to infinity.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn round(v: __m256) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let chosen = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
        let packed = _mm256_packus_epi32(chosen, chosen);
        _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(packed))
    }
}

// SAFETY (all functions): the caller has the features and promises what it points to.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_f32_part(from: *const f32, lanes: usize) -> __m256 {
        // SAFETY: above; masked lanes are not touched.
        unsafe { _mm256_maskload_ps(from, mask(lanes)) }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: __m256) {
        // SAFETY: above.
        unsafe { _mm256_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn store_f32_part(to: *mut f32, v: __m256, lanes: usize) {
        // SAFETY: above; masked lanes are not touched.
        unsafe { _mm256_maskstore_ps(to, mask(lanes), v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> __m256 {
        // SAFETY: above.
        unsafe { widen(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_part(from: *const bf16, lanes: usize) -> __m256 {
        let mut whole = [bf16::ZERO; 8];
        // SAFETY: above; `lanes` is at most 8.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), lanes);
            widen(_mm_loadu_si128(whole.as_ptr().cast()))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: __m256) {
        // SAFETY: above.
        unsafe { _mm_storeu_si128(to.cast(), round(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_part(to: *mut bf16, v: __m256, lanes: usize) {
        let mut whole = [bf16::ZERO; 8];
        // SAFETY: above; `lanes` is at most 8.
        unsafe {
            _mm_storeu_si128(whole.as_mut_ptr().cast(), round(v));
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, lanes);
        }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: above.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: __m256) -> f32 {
        // SAFETY: above.
        unsafe {
            let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
            _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
        }
    }
}
