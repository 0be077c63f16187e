//! [`Vector`]s of AVX2 and AVX-512.

use super::vector::Vector;
use std::arch::x86_64::*;

/// Eight words: AVX2, FMA, F16C.
#[derive(Clone, Copy)]
pub(super) struct Words8(__m256i);

/// Sixteen words: AVX-512 F and BW.
#[derive(Clone, Copy)]
pub(super) struct Words16(__m512i);

macro_rules! helpers {
    ($($name:ident($from:ident: $source:ty) -> $target:ty { $value:expr })*) => {$(
        #[inline(always)]
        unsafe fn $name($from: $source) -> $target {
            // SAFETY: the caller has the instruction set.
            unsafe { $value }
        }
    )*};
}

helpers! {
    floats8(words: __m256i) -> __m256 { _mm256_castsi256_ps(words) }
    floats16(words: __m512i) -> __m512 { _mm512_castsi512_ps(words) }
    widen8(halves: __m128i) -> __m256i { _mm256_castps_si256(_mm256_cvtph_ps(halves)) }
    widen16(halves: __m256i) -> __m512i { _mm512_castps_si512(_mm512_cvtph_ps(halves)) }
    pack8(words: __m256i) -> __m128i {
        _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
    }
}

// No closures around intrinsics here and in the kernels: a closure is a function of its own, into which they cannot be put
// for want of its instruction set, and the functions that take closures are not always put into their callers.

// SAFETY (for all intrinsics below): `Vector`'s methods are called on machines that have the instruction set only, and
// addresses are aligned to the vector and good for as many words as it has (`repeat`: four).
impl Vector for Words8 {
    const LANES: usize = 8;
    type Narrow = Self;

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: see the top of this implementation; likewise below.
        Self(unsafe { _mm256_set1_epi32(word as i32) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_load_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: as above.
        unsafe { _mm256_store_si256(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_broadcastsi128_si256(_mm_load_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn spread<const PATTERN: i32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_castps_si256(_mm256_permute_ps::<PATTERN>(floats8(self.0))) })
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
        // SAFETY: as above.
        unsafe {
            let [Self(a), Self(b), Self(c), Self(d)] = rows;
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            [
                Self(_mm256_unpacklo_epi64(ab, cd)),
                Self(_mm256_unpackhi_epi64(ab, cd)),
                Self(_mm256_unpacklo_epi64(ab_high, cd_high)),
                Self(_mm256_unpackhi_epi64(ab_high, cd_high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_and_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_or_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn left<const BITS: u32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_sll_epi32(self.0, _mm_cvtsi32_si128(BITS as i32)) })
    }

    #[inline(always)]
    unsafe fn right<const BITS: u32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_srl_epi32(self.0, _mm_cvtsi32_si128(BITS as i32)) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_sub_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn subtract_halves(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_sub_epi16(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn dot_halves(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_madd_epi16(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn greater(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_cmpgt_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let product = _mm256_mul_ps(floats8(self.0), floats8(factor.0));
            Self(_mm256_castps_si256(product))
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (a, b, c) = (floats8(self.0), floats8(factor.0), floats8(addend.0));
            Self(_mm256_castps_si256(_mm256_fmadd_ps(a, b, c)))
        }
    }

    #[inline(always)]
    unsafe fn widen_groups(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0));
            [Self(widen8(_mm_unpacklo_epi64(low, high))), Self(widen8(_mm_unpackhi_epi64(low, high)))]
        }
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm256_and_si256(self.0, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(self.0));
            [Self(widen8(pack8(low))), Self(widen8(pack8(high)))]
        }
    }

    #[inline(always)]
    unsafe fn narrow_words(parts: [Self; 2]) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats8(parts[0].0));
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats8(parts[1].0));
            Self(_mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn spread_doubles<const T: usize>(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_castpd_si256(_mm256_broadcast_sd(&*from.cast::<f64>().add(T))) })
    }

    #[inline(always)]
    unsafe fn repeat_doubles(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_loadu_si256(from.cast()) })
    }

    #[inline(always)]
    unsafe fn multiply_add_doubles(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [a, b, c] = [self.0, factor.0, addend.0];
            let sum = _mm256_fmadd_pd(_mm256_castsi256_pd(a), _mm256_castsi256_pd(b), _mm256_castsi256_pd(c));
            Self(_mm256_castpd_si256(sum))
        }
    }

    #[inline(always)]
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool {
        // SAFETY: as above.
        unsafe {
            let mut unordered = _mm256_setzero_ps();
            for k in 0..N {
                let [a, b] = values[k];
                let pair = _mm256_cmp_ps::<_CMP_UNORD_Q>(floats8(a.0), floats8(b.0));
                unordered = _mm256_or_ps(unordered, pair);
            }
            _mm256_movemask_ps(unordered) != 0
        }
    }
}

// SAFETY (for all intrinsics below): as above.
impl Vector for Words16 {
    const LANES: usize = 16;
    type Narrow = Words8;

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_set1_epi32(word as i32) })
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_load_si512(from.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: as above.
        unsafe { _mm512_store_si512(to.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_broadcast_i32x4(_mm_load_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn spread<const PATTERN: i32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_castps_si512(_mm512_permute_ps::<PATTERN>(floats16(self.0))) })
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
        // SAFETY: as above.
        unsafe {
            let [Self(a), Self(b), Self(c), Self(d)] = rows;
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            [
                Self(_mm512_unpacklo_epi64(ab, cd)),
                Self(_mm512_unpackhi_epi64(ab, cd)),
                Self(_mm512_unpacklo_epi64(ab_high, cd_high)),
                Self(_mm512_unpackhi_epi64(ab_high, cd_high)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_and_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_or_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn left<const BITS: u32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_slli_epi32::<BITS>(self.0) })
    }

    #[inline(always)]
    unsafe fn right<const BITS: u32>(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_srli_epi32::<BITS>(self.0) })
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_add_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_epi32(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn subtract_halves(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_epi16(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn dot_halves(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_madd_epi16(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn greater(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_maskz_set1_epi32(_mm512_cmpgt_epi32_mask(self.0, other.0), -1) })
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let product = _mm512_mul_ps(floats16(self.0), floats16(factor.0));
            Self(_mm512_castps_si512(product))
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let (a, b, c) = (floats16(self.0), floats16(factor.0), floats16(addend.0));
            Self(_mm512_castps_si512(_mm512_fmadd_ps(a, b, c)))
        }
    }

    #[inline(always)]
    unsafe fn widen_groups(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), self.0);
            [Self(widen16(_mm512_castsi512_si256(sorted))), Self(widen16(_mm512_extracti64x4_epi64::<1>(sorted)))]
        }
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let high = _mm512_srli_epi32::<16>(self.0);
            [Self(widen16(_mm512_cvtepi32_epi16(self.0))), Self(widen16(_mm512_cvtepi32_epi16(high)))]
        }
    }

    #[inline(always)]
    unsafe fn narrow_words(parts: [Self; 2]) -> Self {
        // SAFETY: as above.
        unsafe {
            let low = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats16(parts[0].0));
            let high = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(floats16(parts[1].0));
            let (low, high) = (_mm512_cvtepu16_epi32(low), _mm512_cvtepu16_epi32(high));
            Self(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    unsafe fn spread_doubles<const T: usize>(from: *const u32) -> Self {
        // SAFETY: as above.
        unsafe {
            let [low, high] = [0, 4].map(|k| *from.cast::<f64>().add(T + k));
            Self(_mm512_castpd_si512(_mm512_setr_pd(low, low, low, low, high, high, high, high)))
        }
    }

    #[inline(always)]
    unsafe fn repeat_doubles(from: *const u32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn multiply_add_doubles(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [a, b, c] = [self.0, factor.0, addend.0];
            let sum = _mm512_fmadd_pd(_mm512_castsi512_pd(a), _mm512_castsi512_pd(b), _mm512_castsi512_pd(c));
            Self(_mm512_castpd_si512(sum))
        }
    }

    #[inline(always)]
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool {
        // SAFETY: as above.
        unsafe {
            let mut unordered = 0;
            for k in 0..N {
                let [a, b] = values[k];
                unordered |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(floats16(a.0), floats16(b.0));
            }
            unordered != 0
        }
    }
}
