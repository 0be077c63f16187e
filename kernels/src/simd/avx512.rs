//! AVX-512, with and without the bf16 conversion instructions.

use super::{Kernel, Vector};
use crate::bf16;
use std::arch::x86_64::*;

/// Runs a kernel with AVX-512 F, BW, DQ and VL.
///
/// # Safety
/// The CPU has them, and AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide<false>>()
}

/// Runs a kernel with AVX-512 and its bf16 conversions.
///
/// # Safety
/// As for [`run`], and the CPU has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Wide<true>>()
}

/// Sixteen lanes; `CONVERT`: the CPU rounds to bf16 by itself.
#[derive(Clone, Copy)]
pub(super) struct Wide<const CONVERT: bool>(__m512);

impl<const CONVERT: bool> Wide<CONVERT> {
    #[inline(always)]
    fn to_bf16(self) -> __m256i {
        // SAFETY: `CONVERT` vectors come from `run_bf16`, the others need what `run` promises.
        unsafe {
            if CONVERT {
                return std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
            }
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let rounded = _mm512_mask_mov_epi32(rounded, nan, quiet);
            _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
        }
    }

    #[inline(always)]
    fn from_bf16(bits: __m256i) -> Self {
        // SAFETY: vectors of this type only exist where `run` or `run_bf16` found AVX-512.
        unsafe { Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))) }
    }
}

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

// SAFETY of everything below: vectors of this type only exist where `run` or `run_bf16` found AVX-512; memory is touched as
// the contracts of `Vector` say.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<const CONVERT: bool> Vector for Wide<CONVERT> {
    const LANES: usize = 16;
    const FUSED: bool = true;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(_mm512_set1_ps(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        unsafe { Self(_mm512_maskz_loadu_ps(mask(count), from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, mask(count), self.0) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe { Self::from_bf16(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const bf16, count: usize) -> Self {
        unsafe { Self::from_bf16(_mm256_maskz_loadu_epi16(mask(count), from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        unsafe { _mm256_storeu_si256(to.cast(), self.to_bf16()) }
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(self, to: *mut bf16, count: usize) {
        unsafe { _mm256_mask_storeu_epi16(to.cast(), mask(count), self.to_bf16()) }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self) {
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))), Self(_mm512_castsi512_ps(second)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(first: Self, second: Self, to: *mut bf16) {
        unsafe {
            let low = _mm512_cvtepu16_epi32(first.to_bf16());
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(second.to_bf16()));
            _mm512_storeu_si512(to.cast(), _mm512_or_si512(low, high));
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const u32, to: *mut u32) {
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(16 * i).cast());
            }
            // Pairs of rows, then fours: lane l of fours[4g + c] is column 4l + c of rows 4g..4g + 4.
            let mut fours = [_mm512_setzero_pd(); 16];
            for g in 0..4 {
                let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
                let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let (ab, ab_high) = (_mm512_castps_pd(ab), _mm512_castps_pd(ab_high));
                let (cd, cd_high) = (_mm512_castps_pd(cd), _mm512_castps_pd(cd_high));
                fours[4 * g] = _mm512_unpacklo_pd(ab, cd);
                fours[4 * g + 1] = _mm512_unpackhi_pd(ab, cd);
                fours[4 * g + 2] = _mm512_unpacklo_pd(ab_high, cd_high);
                fours[4 * g + 3] = _mm512_unpackhi_pd(ab_high, cd_high);
            }
            for c in 0..4 {
                let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
                let (even, even2) = (_mm512_shuffle_f64x2::<0x88>(a, b), _mm512_shuffle_f64x2::<0x88>(d, e));
                let (odd, odd2) = (_mm512_shuffle_f64x2::<0xdd>(a, b), _mm512_shuffle_f64x2::<0xdd>(d, e));
                _mm512_storeu_pd(to.add(16 * c).cast(), _mm512_shuffle_f64x2::<0x88>(even, even2));
                _mm512_storeu_pd(to.add(16 * (4 + c)).cast(), _mm512_shuffle_f64x2::<0x88>(odd, odd2));
                _mm512_storeu_pd(to.add(16 * (8 + c)).cast(), _mm512_shuffle_f64x2::<0xdd>(even, even2));
                _mm512_storeu_pd(to.add(16 * (12 + c)).cast(), _mm512_shuffle_f64x2::<0xdd>(odd, odd2));
            }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(_mm512_fnmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        unsafe { Self(_mm512_abs_ps(self.0)) }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        // Bitwise select: bits of the mask from `sign`, the others from self.
        unsafe {
            let sign_bit = _mm512_set1_epi32(i32::MIN);
            let (value, sign) = (_mm512_castps_si512(self.0), _mm512_castps_si512(sign.0));
            Self(_mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0xca>(sign_bit, sign, value)))
        }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(_mm512_sqrt_ps(self.0)) }
    }
    #[inline(always)]
    fn ldexp(self, exponent: Self) -> Self {
        unsafe { Self(_mm512_scalef_ps(self.0, exponent.0)) }
    }
    #[inline(always)]
    fn lookup(table: &[f32; 32], index: Self) -> Self {
        // The instruction looks at the lowest five bits of each index only.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(table.as_ptr()), _mm512_loadu_ps(table.as_ptr().add(16)));
            Self(_mm512_permutex2var_ps(low, _mm512_castps_si512(index.0), high))
        }
    }
    #[inline(always)]
    fn select_below(self, bound: Self, yes: Self, no: Self) -> Self {
        unsafe { Self(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0), no.0, yes.0)) }
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}
