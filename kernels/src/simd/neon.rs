//! AArch64 NEON.

use super::{Kernel, Vector};
use crate::{Element, bf16};
use std::arch::aarch64::*;

/// Runs a kernel with NEON.
///
/// # Safety
/// The CPU has NEON (every AArch64 CPU that runs this program does).
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Lanes>()
}

/// Four lanes.
#[derive(Clone, Copy)]
pub(super) struct Lanes(float32x4_t);

// SAFETY of everything below: NEON is part of AArch64; memory is touched as the contracts of `Vector` say.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Vector for Lanes {
    const LANES: usize = 4;
    const FUSED: bool = true;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        unsafe { Self(vdupq_n_f32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(vld1q_f32(from)) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0f32; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        let mut lanes = [0.0f32; 4];
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        unsafe { Self(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_bf16_partial(from: *const bf16, count: usize) -> Self {
        let mut lanes = [bf16::default(); 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        unsafe { self.store_bf16_partial(to, 4) }
    }
    #[inline(always)]
    unsafe fn store_bf16_partial(self, to: *mut bf16, count: usize) {
        let mut lanes = [0.0f32; 4];
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (i, lane) in lanes.into_iter().take(count).enumerate() {
                to.add(i).write(<bf16 as Element>::from_f32(lane));
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self) {
        unsafe {
            let pairs = vreinterpretq_u32_u16(vld1q_u16(from.cast()));
            let second = vandq_u32(pairs, vdupq_n_u32(0xffff_0000));
            (Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs))), Self(vreinterpretq_f32_u32(second)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16_pairs(first: Self, second: Self, to: *mut bf16) {
        let (mut a, mut b) = ([0.0f32; 4], [0.0f32; 4]);
        unsafe {
            first.store(a.as_mut_ptr());
            second.store(b.as_mut_ptr());
            for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                to.add(2 * i).write(<bf16 as Element>::from_f32(a));
                to.add(2 * i + 1).write(<bf16 as Element>::from_f32(b));
            }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        unsafe { Self(vdivq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(vfmaq_f32(addend.0, self.0, factor.0)) }
    }
    #[inline(always)]
    fn neg_mul_add(self, factor: Self, addend: Self) -> Self {
        unsafe { Self(vfmsq_f32(addend.0, self.0, factor.0)) }
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        unsafe { Self(vmaxq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        unsafe { Self(vminq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    fn abs(self) -> Self {
        unsafe { Self(vabsq_f32(self.0)) }
    }
    #[inline(always)]
    fn copysign(self, sign: Self) -> Self {
        unsafe { Self(vbslq_f32(vdupq_n_u32(1 << 31), sign.0, self.0)) }
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        unsafe { Self(vsqrtq_f32(self.0)) }
    }
    #[inline(always)]
    fn ldexp(self, exponent: Self) -> Self {
        // In two steps, so that results down to the denormals and up to infinity come out.
        unsafe {
            let exponent = vcvtnq_s32_f32(exponent.0);
            let half = vshrq_n_s32::<1>(exponent);
            let rest = vsubq_s32(exponent, half);
            let bias = vdupq_n_s32(127);
            let first = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let second = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(rest, bias)));
            Self(vmulq_f32(vmulq_f32(self.0, first), second))
        }
    }
    #[inline(always)]
    fn lookup(table: &[f32; 32], index: Self) -> Self {
        let mut lanes = [0.0f32; 4];
        unsafe {
            index.store(lanes.as_mut_ptr());
            let found = lanes.map(|lane| table[lane.to_bits() as usize % 32]);
            Self::load(found.as_ptr())
        }
    }
    #[inline(always)]
    fn select_below(self, bound: Self, yes: Self, no: Self) -> Self {
        unsafe { Self(vbslq_f32(vcltq_f32(self.0, bound.0), yes.0, no.0)) }
    }
    #[inline(always)]
    fn reduce_add(self) -> f32 {
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    fn reduce_max(self) -> f32 {
        unsafe { vmaxvq_f32(self.0) }
    }
}
