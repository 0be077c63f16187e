//! [`Vector`]s of AVX2 and AVX-512.

use super::vector::Vector;
use std::arch::x86_64::*;

/// Eight words: AVX2, FMA, F16C.
#[derive(Clone, Copy)]
pub(super) struct Words8(__m256i);

/// Sixteen words: AVX-512 F and BW.
#[derive(Clone, Copy)]
pub(super) struct Words16(__m512i);

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
        Self(unsafe { _mm256_castps_si256(_mm256_permute_ps::<PATTERN>(_mm256_castsi256_ps(self.0))) })
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
        // SAFETY: as above.
        unsafe {
            let [a, b, c, d] = rows.map(|row| row.0);
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
            let product = _mm256_mul_ps(_mm256_castsi256_ps(self.0), _mm256_castsi256_ps(factor.0));
            Self(_mm256_castps_si256(product))
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [a, b, c] = [self, factor, addend].map(|value| _mm256_castsi256_ps(value.0));
            Self(_mm256_castps_si256(_mm256_fmadd_ps(a, b, c)))
        }
    }

    #[inline(always)]
    unsafe fn widen_groups(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0));
            [_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high)]
                .map(|halves| Self(_mm256_castps_si256(_mm256_cvtph_ps(halves))))
        }
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            [_mm256_and_si256(self.0, _mm256_set1_epi32(0xffff)), _mm256_srli_epi32::<16>(self.0)].map(|words| {
                let halves = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                Self(_mm256_castps_si256(_mm256_cvtph_ps(halves)))
            })
        }
    }

    #[inline(always)]
    unsafe fn narrow_words(parts: [Self; 2]) -> Self {
        // SAFETY: as above.
        unsafe {
            let [low, high] =
                parts.map(|part| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_castsi256_ps(part.0)));
            Self(_mm256_set_m128i(_mm_unpackhi_epi16(low, high), _mm_unpacklo_epi16(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool {
        // SAFETY: as above.
        unsafe {
            let mut unordered = _mm256_setzero_ps();
            for [a, b] in values {
                let pair = _mm256_cmp_ps::<_CMP_UNORD_Q>(_mm256_castsi256_ps(a.0), _mm256_castsi256_ps(b.0));
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
        Self(unsafe { _mm512_castps_si512(_mm512_permute_ps::<PATTERN>(_mm512_castsi512_ps(self.0))) })
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
        // SAFETY: as above.
        unsafe {
            let [a, b, c, d] = rows.map(|row| row.0);
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
            let product = _mm512_mul_ps(_mm512_castsi512_ps(self.0), _mm512_castsi512_ps(factor.0));
            Self(_mm512_castps_si512(product))
        }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [a, b, c] = [self, factor, addend].map(|value| _mm512_castsi512_ps(value.0));
            Self(_mm512_castps_si512(_mm512_fmadd_ps(a, b, c)))
        }
    }

    #[inline(always)]
    unsafe fn widen_groups(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            let sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), self.0);
            [_mm512_castsi512_si256(sorted), _mm512_extracti64x4_epi64::<1>(sorted)]
                .map(|halves| Self(_mm512_castps_si512(_mm512_cvtph_ps(halves))))
        }
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        // SAFETY: as above.
        unsafe {
            [self.0, _mm512_srli_epi32::<16>(self.0)].map(|words| {
                let halves = _mm512_cvtepi32_epi16(words);
                Self(_mm512_castps_si512(_mm512_cvtph_ps(halves)))
            })
        }
    }

    #[inline(always)]
    unsafe fn narrow_words(parts: [Self; 2]) -> Self {
        // SAFETY: as above.
        unsafe {
            let [low, high] = parts.map(|part| {
                let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_castsi512_ps(part.0));
                _mm512_cvtepu16_epi32(halves)
            });
            Self(_mm512_or_si512(low, _mm512_slli_epi32::<16>(high)))
        }
    }

    #[inline(always)]
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool {
        // SAFETY: as above.
        unsafe {
            let mut unordered = 0;
            for [a, b] in values {
                unordered |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(_mm512_castsi512_ps(a.0), _mm512_castsi512_ps(b.0));
            }
            unordered != 0
        }
    }
}
