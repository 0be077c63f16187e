//! 16-bit numbers of all lanes at once: made single, worked on, and made 16-bit again.

use crate::{
    machine::{
        op::{Exec, Flow, Op, TieredBody, conjure, tiered},
        warp::Warp,
    },
    ops::float::rounding::{
        Bf16, F16, Half, RN, canonical, from_bf16, from_f16, sum_odd, sum_odd_single, to_bf16, to_f16, to_single_odd,
    },
};
use std::marker::PhantomData;

/// A format whose numbers are converted for all lanes: the low ones of every word in the order of the lanes for `N` = 32,
/// both of every word in an order of the format's own for `N` = 64.
pub(crate) trait Lanes: Half {
    /// The values, exactly.
    ///
    /// # Safety
    /// With `AVX2` the machine must have AVX2 and F16C.
    unsafe fn widen<const AVX2: bool, const N: usize>(words: &[u32; 32]) -> [f32; N];

    /// The nearest numbers; NaN is the canonical one.
    ///
    /// # Safety
    /// As [`Self::widen`].
    unsafe fn narrow<const AVX2: bool, const N: usize>(values: &[f32; N]) -> [u32; 32];

    /// The nearest numbers to two of every lane, side by side; NaN is the canonical one.
    ///
    /// # Safety
    /// As [`Self::widen`].
    #[inline(always)]
    unsafe fn narrow_pairs<const AVX2: bool>(low: &[f32; 32], high: &[f32; 32]) -> [u32; 32] {
        // SAFETY: the caller's promise.
        let (mut words, high) = unsafe { (Self::narrow::<AVX2, 32>(low), Self::narrow::<AVX2, 32>(high)) };
        for lane in 0..32 {
            words[lane] |= high[lane] << 16;
        }
        words
    }
}

/// [`Lanes::widen`] in any instruction set.
#[inline(always)]
fn widen<const N: usize>(words: &[u32; 32], widen: impl Fn(u32) -> f32) -> [f32; N] {
    let mut values = [0.0; N];
    let (low, high) = values.split_at_mut(32);
    for (value, word) in low.iter_mut().zip(words) {
        *value = widen(word & 0xffff);
    }
    for (value, word) in high.iter_mut().zip(words) {
        *value = widen(word >> 16);
    }
    values
}

/// [`Lanes::narrow`] in any instruction set.
#[inline(always)]
fn narrow<const N: usize>(values: &[f32; N], narrow: impl Fn(f32) -> u32) -> [u32; 32] {
    let mut words = [0; 32];
    let (low, high) = values.split_at(32);
    for (word, value) in words.iter_mut().zip(low) {
        *word = narrow(*value);
    }
    for (word, value) in words.iter_mut().zip(high) {
        *word |= narrow(*value) << 16;
    }
    words
}

impl Lanes for Bf16 {
    #[inline(always)]
    unsafe fn widen<const AVX2: bool, const N: usize>(words: &[u32; 32]) -> [f32; N] {
        widen(words, from_bf16)
    }

    #[inline(always)]
    unsafe fn narrow<const AVX2: bool, const N: usize>(values: &[f32; N]) -> [u32; 32] {
        narrow(values, to_bf16::<RN>)
    }
}

impl Lanes for F16 {
    #[inline(always)]
    unsafe fn widen<const AVX2: bool, const N: usize>(words: &[u32; 32]) -> [f32; N] {
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            // SAFETY: the caller has F16C.
            return unsafe { f16c::widen(words) };
        }
        widen(words, from_f16)
    }

    #[inline(always)]
    unsafe fn narrow<const AVX2: bool, const N: usize>(values: &[f32; N]) -> [u32; 32] {
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            // SAFETY: the caller has F16C.
            return unsafe { f16c::narrow(values) };
        }
        narrow(values, to_f16::<RN>)
    }

    #[inline(always)]
    unsafe fn narrow_pairs<const AVX2: bool>(low: &[f32; 32], high: &[f32; 32]) -> [u32; 32] {
        #[cfg(target_arch = "x86_64")]
        if AVX2 {
            // SAFETY: the caller has F16C.
            return unsafe { f16c::narrow_pairs(low, high) };
        }
        let mut words = narrow(low, to_f16::<RN>);
        for lane in 0..32 {
            words[lane] |= to_f16::<RN>(high[lane]) << 16;
        }
        words
    }
}

/// Conversions by the processor's own instructions. For `N` = 64 values stand as the halves do in memory.
#[cfg(target_arch = "x86_64")]
mod f16c {
    use crate::ops::float::rounding::NAN32;
    use std::arch::x86_64::*;

    /// # Safety
    /// The machine must have AVX2 and F16C.
    #[inline(always)]
    pub(super) unsafe fn widen<const N: usize>(words: &[u32; 32]) -> [f32; N] {
        let mut values = [0.0; N];
        for (part, values) in values.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: parts of four words for 64 values, of eight words for 32; the caller has the instructions.
            unsafe {
                let halves = if N == 64 {
                    _mm_loadu_si128(words.as_ptr().add(4 * part).cast())
                } else {
                    let words = _mm256_loadu_si256(words.as_ptr().add(8 * part).cast());
                    let words = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
                    _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
                };
                _mm256_storeu_ps(values.as_mut_ptr(), _mm256_cvtph_ps(halves));
            }
        }
        values
    }

    /// Eight numbers, rounded.
    #[inline(always)]
    unsafe fn eight(values: *const f32) -> __m128i {
        // SAFETY: the caller has eight numbers there, and the instructions.
        unsafe {
            let values = _mm256_loadu_ps(values);
            let nan = _mm256_castsi256_ps(_mm256_set1_epi32(NAN32 as i32));
            let values = _mm256_blendv_ps(values, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
            _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values)
        }
    }

    /// # Safety
    /// As [`widen`].
    #[inline(always)]
    pub(super) unsafe fn narrow_pairs(low: &[f32; 32], high: &[f32; 32]) -> [u32; 32] {
        let mut words = [0u32; 32];
        for part in (0..32).step_by(8) {
            // SAFETY: as in `widen`; each part has eight numbers and words.
            unsafe {
                let (low, high) = (eight(low.as_ptr().add(part)), eight(high.as_ptr().add(part)));
                let to = words.as_mut_ptr().add(part);
                _mm_storeu_si128(to.cast(), _mm_unpacklo_epi16(low, high));
                _mm_storeu_si128(to.add(4).cast(), _mm_unpackhi_epi16(low, high));
            }
        }
        words
    }

    /// # Safety
    /// As [`widen`].
    #[inline(always)]
    pub(super) unsafe fn narrow<const N: usize>(values: &[f32; N]) -> [u32; 32] {
        let mut words = [0u32; 32];
        for (part, values) in values.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: as in `widen`.
            unsafe {
                let halves = eight(values.as_ptr());
                if N == 64 {
                    _mm_storeu_si128(words.as_mut_ptr().add(4 * part).cast(), halves);
                } else {
                    _mm256_storeu_si256(words.as_mut_ptr().add(8 * part).cast(), _mm256_cvtepu16_epi32(halves));
                }
            }
        }
        words
    }
}

struct Elementwise<H, F, const SOURCES: usize, const N: usize>(PhantomData<(H, F)>);

impl<H: Lanes, F, const SOURCES: usize, const N: usize> TieredBody for Elementwise<H, F, SOURCES, N>
where
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        let function = conjure::<F>();
        // SAFETY: the decoder made the slots for words of 16 or 32 bits; the instruction set is the caller's promise.
        unsafe {
            let a = H::widen::<AVX2, N>(warp.lanes::<u32>(op.a));
            let b = if SOURCES > 1 { H::widen::<AVX2, N>(warp.lanes::<u32>(op.b)) } else { [0.0; N] };
            let c = if SOURCES > 2 { H::widen::<AVX2, N>(warp.lanes::<u32>(op.c)) } else { [0.0; N] };
            let mut result = [0.0; N];
            for k in 0..N {
                result[k] = function(a[k], b[k], c[k]);
            }
            warp.write::<u32>(op.d, &H::narrow::<AVX2, N>(&result));
        }
        Flow::Next
    }
}

/// A function of `SOURCES` numbers in single precision, rounded; of both halves of a word if `packed`.
pub(super) fn elementwise<H, F, const SOURCES: usize>(packed: bool, _: F) -> Exec
where
    H: Lanes,
    F: Fn(f32, f32, f32) -> f32 + Copy,
{
    if packed { tiered::<Elementwise<H, F, SOURCES, 64>>() } else { tiered::<Elementwise<H, F, SOURCES, 32>>() }
}

/// Products of `.bf16`, and with `SUM` a third number added.
struct Product<const SUM: bool, const N: usize>;

impl<const SUM: bool, const N: usize> TieredBody for Product<SUM, N> {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: as in `Elementwise`.
        unsafe {
            let a = Bf16::widen::<AVX2, N>(warp.lanes::<u32>(op.a));
            let b = Bf16::widen::<AVX2, N>(warp.lanes::<u32>(op.b));
            let c = if SUM { Bf16::widen::<AVX2, N>(warp.lanes::<u32>(op.c)) } else { [0.0; N] };
            let mut unusual = 0;
            for k in 0..N {
                unusual |= u32::from(!is_exact(a[k], b[k], c[k]));
            }
            let mut result = [0.0; N];
            if unusual == 0 {
                for k in 0..N {
                    result[k] = if SUM { sum_odd_single(a[k] * b[k], c[k]) } else { a[k] * b[k] };
                }
            } else {
                for k in 0..N {
                    let product = f64::from(a[k]) * f64::from(b[k]);
                    result[k] = to_single_odd(if SUM { sum_odd(product, f64::from(c[k])) } else { product });
                }
            }
            warp.write::<u32>(op.d, &Bf16::narrow::<AVX2, N>(&result));
        }
        Flow::Next
    }
}

/// Whether the product of two numbers of 8 bits is exact in single precision, and far enough from its upper end that the
/// sum with `c` stays below it.
#[inline(always)]
fn is_exact(a: f32, b: f32, c: f32) -> bool {
    let product = a * b;
    let normal = (product.to_bits() >> 23 & 0xff).wrapping_sub(1) < 252;
    let zero = ((a == 0.0) | (b == 0.0)) & (product == 0.0);
    (normal | zero) & (c.to_bits() >> 23 & 0xff < 253)
}

/// `a · b` of `.bf16`, or `a · b + c`, rounded once.
pub(super) fn product(sum: bool, packed: bool) -> Exec {
    match (sum, packed) {
        (false, false) => tiered::<Product<false, 32>>(),
        (false, true) => tiered::<Product<false, 64>>(),
        (true, false) => tiered::<Product<true, 32>>(),
        (true, true) => tiered::<Product<true, 64>>(),
    }
}

struct ToSingles<H, const HIGH: bool>(PhantomData<H>);

impl<H: Lanes, const HIGH: bool> TieredBody for ToSingles<H, HIGH> {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: as in `Elementwise`; `d` is a slot of 32-bit words.
        unsafe {
            // Loops, as `map` of an array is a function of its own, without the instruction set.
            let mut words = *warp.lanes::<u32>(op.a);
            if HIGH {
                for lane in 0..32 {
                    words[lane] >>= 16;
                }
            }
            let values: [f32; 32] = H::widen::<AVX2, 32>(&words);
            for lane in 0..32 {
                words[lane] = canonical(values[lane]).to_bits();
            }
            warp.write::<f32>(op.d, &words);
        }
        Flow::Next
    }
}

/// The low (or high) number of every word in single precision, NaN the canonical one.
pub(crate) fn to_singles<H: Lanes>(high: bool) -> Exec {
    if high { tiered::<ToSingles<H, true>>() } else { tiered::<ToSingles<H, false>>() }
}

struct FromSingles<H, const PAIR: bool>(PhantomData<H>);

impl<H: Lanes, const PAIR: bool> TieredBody for FromSingles<H, PAIR> {
    #[inline(always)]
    unsafe fn run<const AVX2: bool>(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: as in `Elementwise`; the sources are slots of 32-bit words.
        unsafe {
            // Words of singles are singles.
            let singles = |slot| &*std::ptr::from_ref(warp.lanes::<f32>(slot)).cast::<[f32; 32]>();
            let result = match PAIR {
                true => H::narrow_pairs::<AVX2>(singles(op.b), singles(op.a)),
                false => H::narrow::<AVX2, 32>(singles(op.a)),
            };
            warp.write::<u32>(op.d, &result);
        }
        Flow::Next
    }
}

/// `a` to the nearest number of 16 bits; with `pair` that is the upper half, and `b` becomes the lower one.
pub(crate) fn from_singles<H: Lanes>(pair: bool) -> Exec {
    if pair { tiered::<FromSingles<H, true>>() } else { tiered::<FromSingles<H, false>>() }
}
