//! Vectors of f32, one type per instruction-set tier, so that a kernel is written once and runs on all of them.
//!
//! A kernel is a struct that implements [`Kernel`]; [`dispatch`] instantiates it for the tier's [`Vector`] inside a function
//! compiled for that tier's instructions. The body of `run`, and everything it calls in its inner loops, must be
//! `#[inline(always)]` and free of closures, or the compiler will call vector instructions instead of emitting them.

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::{DType, Element, Isa, bf16};

/// A computation that is instantiated per vector type.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Does it. Mark the implementation `#[inline(always)]`.
    fn run<V: Vector>(self) -> Self::Output;
}

/// [`Vector::LANES`] values of f32 in a register.
///
/// Only [`dispatch`] hands out implementations, after it has made sure that the CPU has the instructions: that is why
/// arithmetic is safe to call.
pub trait Vector: Copy + Send + Sync + 'static {
    /// Values per vector: 4, 8 or 16.
    const LANES: usize;
    /// Whether a · b + c is rounded once.
    const FUSED: bool;
    /// How many of these vectors the registers hold.
    const REGISTERS: usize;

    /// All lanes the same.
    fn splat(value: f32) -> Self;
    /// All lanes zero.
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// Loads LANES values; no alignment needed.
    /// # Safety
    /// `from` is valid for LANES reads.
    unsafe fn load(from: *const f32) -> Self;
    /// Loads the first `count` ≤ LANES lanes, the rest is zero; nothing beyond them is touched.
    /// # Safety
    /// `from` is valid for `count` reads.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self;
    /// Stores LANES values; no alignment needed.
    /// # Safety
    /// `to` is valid for LANES writes.
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `count` ≤ LANES lanes.
    /// # Safety
    /// `to` is valid for `count` writes.
    unsafe fn store_partial(self, to: *mut f32, count: usize);

    /// Loads and widens LANES values.
    /// # Safety
    /// `from` is valid for LANES reads.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// Loads and widens the first `count` ≤ LANES lanes, the rest is zero.
    /// # Safety
    /// `from` is valid for `count` reads.
    unsafe fn load_bf16_partial(from: *const bf16, count: usize) -> Self;
    /// Rounds to nearest even and stores LANES values. Denormals may become zero.
    /// # Safety
    /// `to` is valid for LANES writes.
    unsafe fn store_bf16(self, to: *mut bf16);
    /// Rounds to nearest even and stores the first `count` ≤ LANES lanes. Denormals may become zero.
    /// # Safety
    /// `to` is valid for `count` writes.
    unsafe fn store_bf16_partial(self, to: *mut bf16, count: usize);
    /// Widens 2·LANES values that lie as pairs: the first of each pair, then the second of each.
    /// # Safety
    /// `from` is valid for 2·LANES reads.
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self, Self);
    /// Rounds both to bf16 and stores them as pairs: lane i of `first`, lane i of `second`, and so on.
    /// # Safety
    /// `to` is valid for 2·LANES writes.
    unsafe fn store_bf16_pairs(first: Self, second: Self, to: *mut bf16);
    /// Transposes a 16 × 16 matrix of any 4-byte values: `to[j][i] = from[i][j]`.
    /// # Safety
    /// `from` is valid for 256 reads, `to` for 256 writes, and they do not overlap.
    #[inline(always)]
    unsafe fn transpose(from: *const u32, to: *mut u32) {
        for j in 0..16 {
            for i in 0..16 {
                // SAFETY: i, j < 16.
                unsafe { to.add(j * 16 + i).write(from.add(i * 16 + j).read()) };
            }
        }
    }

    /// self + other
    fn add(self, other: Self) -> Self;
    /// self − other
    fn sub(self, other: Self) -> Self;
    /// self · other
    fn mul(self, other: Self) -> Self;
    /// self / other
    fn div(self, other: Self) -> Self;
    /// self · factor + addend; rounded once where the tier has FMA (all but portable).
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// addend − self · factor; rounded once where the tier has FMA (all but portable).
    fn neg_mul_add(self, factor: Self, addend: Self) -> Self;
    /// The larger of both; a NaN in `other` stays.
    fn max(self, other: Self) -> Self;
    /// The smaller of both; a NaN in `other` stays.
    fn min(self, other: Self) -> Self;
    /// |self|
    fn abs(self) -> Self;
    /// Magnitude of self with the sign of `sign`.
    fn copysign(self, sign: Self) -> Self;
    /// √self
    fn sqrt(self) -> Self;
    /// self · 2^exponent for whole-numbered exponents in −252..=252.
    fn ldexp(self, exponent: Self) -> Self;
    /// `table[i]` for an index i in 0..32 that is given as 2²³ + i (what adding 2²³ to a number rounds it to).
    fn lookup(table: &[f32; 32], index: Self) -> Self;
    /// `yes` in the lanes where self < bound, else `no`.
    fn select_below(self, bound: Self, yes: Self, no: Self) -> Self;
    /// Sum of all lanes, in an order fixed per tier.
    fn reduce_add(self) -> f32;
    /// Largest lane (lanes must not be NaN).
    fn reduce_max(self) -> f32;

    /// [`Vector::load`] or [`Vector::load_bf16`].
    /// # Safety
    /// `from` is valid for LANES reads.
    #[inline(always)]
    unsafe fn load_as<T: Element>(from: *const T) -> Self {
        // SAFETY: DTYPE names the type, so the cast changes nothing; reads as the caller promises.
        unsafe { if T::DTYPE == DType::F32 { Self::load(from.cast()) } else { Self::load_bf16(from.cast()) } }
    }
    /// [`Vector::load_partial`] or [`Vector::load_bf16_partial`].
    /// # Safety
    /// `from` is valid for `count` reads.
    #[inline(always)]
    unsafe fn load_partial_as<T: Element>(from: *const T, count: usize) -> Self {
        // SAFETY: as in `load_as`.
        unsafe {
            if T::DTYPE == DType::F32 {
                Self::load_partial(from.cast(), count)
            } else {
                Self::load_bf16_partial(from.cast(), count)
            }
        }
    }
    /// [`Vector::store`] or [`Vector::store_bf16`].
    /// # Safety
    /// `to` is valid for LANES writes.
    #[inline(always)]
    unsafe fn store_as<T: Element>(self, to: *mut T) {
        // SAFETY: as in `load_as`.
        unsafe { if T::DTYPE == DType::F32 { self.store(to.cast()) } else { self.store_bf16(to.cast()) } }
    }
    /// [`Vector::store_partial`] or [`Vector::store_bf16_partial`].
    /// # Safety
    /// `to` is valid for `count` writes.
    #[inline(always)]
    unsafe fn store_partial_as<T: Element>(self, to: *mut T, count: usize) {
        // SAFETY: as in `load_as`.
        unsafe {
            if T::DTYPE == DType::F32 {
                self.store_partial(to.cast(), count)
            } else {
                self.store_bf16_partial(to.cast(), count)
            }
        }
    }
}

/// Runs a kernel with the vectors of an instruction-set tier.
///
/// # Panics
/// If this CPU lacks `isa`.
#[inline]
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.is_available(), "{} is not available on this CPU", isa.name());
    match isa {
        Isa::Portable => kernel.run::<portable::Lanes>(),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon => unsafe { neon::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available, checked above.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; AMX implies the bf16 conversions (see `Isa::is_available`).
        Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run_bf16(kernel) },
        #[allow(unreachable_patterns)] // reached on the other architecture only
        _ => kernel.run::<portable::Lanes>(),
    }
}

/// [`dispatch`] for products of f32: tiers above AVX-512 add nothing to FMA and share its code.
///
/// # Panics
/// If this CPU lacks `isa`.
#[inline]
pub(crate) fn dispatch_fma<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    assert!(isa.is_available(), "{} is not available on this CPU", isa.name());
    match isa {
        Isa::Portable => kernel.run::<portable::Lanes>(),
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of AArch64.
        Isa::Neon => unsafe { neon::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the tier is available, checked above.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above; the higher tiers imply AVX-512.
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run(kernel) },
        #[allow(unreachable_patterns)] // reached on the other architecture only
        _ => kernel.run::<portable::Lanes>(),
    }
}

#[cfg(test)]
mod tests;
