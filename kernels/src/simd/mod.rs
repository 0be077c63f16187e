//! Vectors of f32 lanes, one implementation per instruction set, and the switch between them.
//!
//! A kernel written once over [`Simd`] becomes one machine-code copy per tier: [`dispatch`] calls its [`Kernel::run`] from a
//! function that has the tier's target features, and everything below is inlined into that.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use crate::{DType, Element, Isa};
use half::bf16;

/// One tier's vector of f32 lanes.
///
/// # Safety
/// Every function demands that the CPU has the tier's instructions, which [`dispatch`] makes sure of; those that take a pointer
/// demand that the lanes they touch are inside one allocation. No alignment is demanded.
pub(crate) trait Simd: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// Its lanes.
    const LANES: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// [`Simd::LANES`] values.
    unsafe fn load_f32(from: *const f32) -> Self::V;
    /// The first `lanes` lanes, the rest zero; nothing behind them is touched.
    unsafe fn load_f32_part(from: *const f32, lanes: usize) -> Self::V;
    /// [`Simd::LANES`] values.
    unsafe fn store_f32(to: *mut f32, v: Self::V);
    /// The first `lanes` lanes; nothing behind them is touched.
    unsafe fn store_f32_part(to: *mut f32, v: Self::V, lanes: usize);
    /// Widens exactly.
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// As [`Simd::load_f32_part`].
    unsafe fn load_bf16_part(from: *const bf16, lanes: usize) -> Self::V;
    /// Rounds to nearest even; NaN stays NaN.
    unsafe fn store_bf16(to: *mut bf16, v: Self::V);
    /// As [`Simd::store_f32_part`].
    unsafe fn store_bf16_part(to: *mut bf16, v: Self::V, lanes: usize);
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the tier has the instruction.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes, in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;

    /// [`Simd::LANES`] elements, widened.
    #[inline(always)]
    unsafe fn load<T: Element>(from: *const T) -> Self::V {
        // SAFETY: the caller's promise; `T` is the type its DTYPE names.
        unsafe {
            match T::DTYPE {
                DType::Bf16 => Self::load_bf16(from.cast()),
                _ => Self::load_f32(from.cast()),
            }
        }
    }

    /// The first `lanes` lanes, the rest zero; nothing behind them is touched.
    #[inline(always)]
    unsafe fn load_part<T: Element>(from: *const T, lanes: usize) -> Self::V {
        // SAFETY: as in `load`.
        unsafe {
            match T::DTYPE {
                DType::Bf16 => Self::load_bf16_part(from.cast(), lanes),
                _ => Self::load_f32_part(from.cast(), lanes),
            }
        }
    }

    /// [`Simd::LANES`] elements, rounded.
    #[inline(always)]
    unsafe fn store<T: Element>(to: *mut T, v: Self::V) {
        // SAFETY: as in `load`.
        unsafe {
            match T::DTYPE {
                DType::Bf16 => Self::store_bf16(to.cast(), v),
                _ => Self::store_f32(to.cast(), v),
            }
        }
    }

    /// The first `lanes` lanes; nothing behind them is touched.
    #[inline(always)]
    unsafe fn store_part<T: Element>(to: *mut T, v: Self::V, lanes: usize) {
        // SAFETY: as in `load`.
        unsafe {
            match T::DTYPE {
                DType::Bf16 => Self::store_bf16_part(to.cast(), v, lanes),
                _ => Self::store_f32_part(to.cast(), v, lanes),
            }
        }
    }
}

/// Something to compute in whatever tier it is given.
pub(crate) trait Kernel {
    /// What it gives back.
    type Output;

    /// Computes. Must be `#[inline(always)]`, with everything it calls on the hot path, or the tier's instructions are lost.
    ///
    /// # Safety
    /// The CPU has the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` with the vectors of `isa`.
///
/// # Panics
/// If the CPU lacks `isa`. Contexts cannot be made with such a tier.
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    debug_assert!(isa.is_available());
    match isa {
        // SAFETY: portable code runs on every CPU.
        Isa::Portable => unsafe { kernel.run::<portable::Portable>() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a context only has tiers that the CPU has.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; AMX's tier includes this one.
        Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run_bf16(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon => unsafe { kernel.run::<neon::Neon>() },
        #[allow(unreachable_patterns)] // which tiers remain depends on the architecture
        other => panic!("{other:?} is not a tier of this architecture"),
    }
}
