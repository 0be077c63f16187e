//! AArch64 NEON. bf16 is rounded in integer arithmetic: the baseline has no instruction for it.

use super::Simd;
use half::bf16;
use std::arch::aarch64::*;

#[derive(Clone, Copy)]
pub(super) struct Neon;

/// Bit patterns rounded to the nearest even bf16; a NaN is made quiet so that its payload cannot round to infinity.
///
/// # Safety
/// None beyond NEON, which every AArch64 CPU has.
#[inline(always)]
unsafe fn round(v: float32x4_t) -> uint16x4_t {
    // SAFETY: above.
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd);
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(v, v), rounded, quiet))
    }
}

// SAFETY (all functions): the caller promises what it points to.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        // SAFETY: above.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> float32x4_t {
        // SAFETY: above.
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_f32_part(from: *const f32, lanes: usize) -> float32x4_t {
        let mut whole = [0.0; 4];
        // SAFETY: above; `lanes` is at most 4.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), lanes);
            vld1q_f32(whole.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, v: float32x4_t) {
        // SAFETY: above.
        unsafe { vst1q_f32(to, v) }
    }
    #[inline(always)]
    unsafe fn store_f32_part(to: *mut f32, v: float32x4_t, lanes: usize) {
        let mut whole = [0.0; 4];
        // SAFETY: above; `lanes` is at most 4.
        unsafe {
            vst1q_f32(whole.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, lanes);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> float32x4_t {
        // SAFETY: above.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16_part(from: *const bf16, lanes: usize) -> float32x4_t {
        let mut whole = [bf16::ZERO; 4];
        // SAFETY: above; `lanes` is at most 4.
        unsafe {
            std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), lanes);
            Self::load_bf16(whole.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: float32x4_t) {
        // SAFETY: above.
        unsafe { vst1_u16(to.cast(), round(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16_part(to: *mut bf16, v: float32x4_t, lanes: usize) {
        let mut whole = [bf16::ZERO; 4];
        // SAFETY: above; `lanes` is at most 4.
        unsafe {
            Self::store_bf16(whole.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(whole.as_ptr(), to, lanes);
        }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: above.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4_t) -> f32 {
        // SAFETY: above.
        unsafe { vaddvq_f32(v) }
    }
}
