//! Vectors of 32-bit words, of 8 or 16 lanes, in which the kernels of all instruction sets are written once.
//!
//! A *group* is four words side by side: the four lanes of a fragment that hold one row. A register's 32 lanes are eight
//! groups, the rows 0 to 7 of a tile.

use crate::machine::{
    op::{Exec, Flow, Op, Run, Tier, tier},
    warp::Warp,
};

/// Words side by side. Its operations need the instruction set that they are compiled for.
pub(super) trait Vector: Copy {
    /// Number of words.
    const LANES: usize;
    /// A vector of eight words.
    type Narrow: Vector;

    unsafe fn splat(word: u32) -> Self;
    /// From an address aligned to the vector.
    unsafe fn load(from: *const u32) -> Self;
    unsafe fn store(self, to: *mut u32);
    /// One group from memory, in every group.
    unsafe fn repeat(from: *const u32) -> Self;
    /// In every group the word `PATTERN & 3` four times; the pattern repeats in all pairs of its bits.
    unsafe fn spread<const PATTERN: i32>(self) -> Self;
    /// Of four vectors of eight words: the four words of each group as columns.
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4];
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn left<const BITS: u32>(self) -> Self;
    unsafe fn right<const BITS: u32>(self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn subtract(self, other: Self) -> Self;
    /// Subtraction of 16-bit halves.
    unsafe fn subtract_halves(self, other: Self) -> Self;
    /// Sum of the products of both signed 16-bit halves.
    unsafe fn dot_halves(self, other: Self) -> Self;
    /// All bits of a word where it is greater, signed.
    unsafe fn greater(self, other: Self) -> Self;
    /// `self · factor` of f32.
    unsafe fn multiply(self, factor: Self) -> Self;
    /// `self · factor + addend` of f32, rounded once.
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self;
    /// The eight f16 of each group as f32: the first four of every group, then the last four.
    unsafe fn widen_groups(self) -> [Self; 2];
    /// The two f16 of each word as f32.
    unsafe fn widen_words(self) -> [Self; 2];
    /// The inverse of [`Self::widen_words`], to nearest even.
    unsafe fn narrow_words(parts: [Self; 2]) -> Self;
    /// The f64 `T` of each four in memory, four times.
    unsafe fn spread_doubles<const T: usize>(from: *const u32) -> Self;
    /// Four f64 from memory, in all of the vector. The address need not be aligned.
    unsafe fn repeat_doubles(from: *const u32) -> Self;
    /// `self · factor + addend` of f64, rounded once.
    unsafe fn multiply_add_doubles(self, factor: Self, addend: Self) -> Self;
    /// Whether one of them holds a NaN.
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool;
}

/// Eight words without any instruction set in particular.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Portable([u32; 8]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(u32) -> u32) -> Self {
        Self(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(u32, u32) -> u32) -> Self {
        Self(std::array::from_fn(|k| f(self.0[k], other.0[k])))
    }
}

fn half_to_word(bits: u32) -> u32 {
    half::f16::from_bits(bits as u16).to_f32().to_bits()
}

impl Vector for Portable {
    const LANES: usize = 8;
    type Narrow = Self;

    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        Self([word; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: the caller passes eight aligned words.
        Self(unsafe { *from.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: as in `load`.
        unsafe { *to.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const u32) -> Self {
        // SAFETY: the caller passes four words.
        let group: [u32; 4] = unsafe { *from.cast() };
        Self(std::array::from_fn(|k| group[k & 3]))
    }

    #[inline(always)]
    unsafe fn spread<const PATTERN: i32>(self) -> Self {
        Self(std::array::from_fn(|k| self.0[k & 4 | PATTERN as usize & 3]))
    }

    #[inline(always)]
    unsafe fn transpose(rows: [Self; 4]) -> [Self; 4] {
        std::array::from_fn(|column| Self(std::array::from_fn(|k| rows[k & 3].0[k & 4 | column])))
    }

    #[inline(always)]
    unsafe fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        self.zip(other, |a, b| a ^ b)
    }

    #[inline(always)]
    unsafe fn left<const BITS: u32>(self) -> Self {
        self.map(|a| a << BITS)
    }

    #[inline(always)]
    unsafe fn right<const BITS: u32>(self) -> Self {
        self.map(|a| a >> BITS)
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, u32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        self.zip(other, u32::wrapping_sub)
    }

    #[inline(always)]
    unsafe fn subtract_halves(self, other: Self) -> Self {
        self.zip(other, |a, b| a.wrapping_sub(b) & 0xffff | (a >> 16).wrapping_sub(b >> 16) << 16)
    }

    #[inline(always)]
    unsafe fn dot_halves(self, other: Self) -> Self {
        self.zip(other, |a, b| {
            let low = i32::from(a as i16) * i32::from(b as i16);
            let high = i32::from((a >> 16) as i16) * i32::from((b >> 16) as i16);
            low.wrapping_add(high) as u32
        })
    }

    #[inline(always)]
    unsafe fn greater(self, other: Self) -> Self {
        self.zip(other, |a, b| if (a as i32) > b as i32 { u32::MAX } else { 0 })
    }

    #[inline(always)]
    unsafe fn multiply(self, factor: Self) -> Self {
        self.zip(factor, |a, b| (f32::from_bits(a) * f32::from_bits(b)).to_bits())
    }

    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|k| {
            f32::from_bits(self.0[k]).mul_add(f32::from_bits(factor.0[k]), f32::from_bits(addend.0[k])).to_bits()
        }))
    }

    #[inline(always)]
    unsafe fn widen_groups(self) -> [Self; 2] {
        std::array::from_fn(|part| {
            Self(std::array::from_fn(|k| {
                let word = self.0[(k & 4) | (2 * part) | ((k & 3) / 2)];
                half_to_word(if k & 1 == 0 { word & 0xffff } else { word >> 16 })
            }))
        })
    }

    #[inline(always)]
    unsafe fn widen_words(self) -> [Self; 2] {
        [self.map(|word| half_to_word(word & 0xffff)), self.map(|word| half_to_word(word >> 16))]
    }

    #[inline(always)]
    unsafe fn narrow_words(parts: [Self; 2]) -> Self {
        let narrow = |word| u32::from(half::f16::from_f32(f32::from_bits(word)).to_bits());
        parts[0].zip(parts[1], |low, high| narrow(low) | narrow(high) << 16)
    }

    #[inline(always)]
    unsafe fn spread_doubles<const T: usize>(from: *const u32) -> Self {
        // SAFETY: the caller passes four f64.
        let word = |k: usize| unsafe { *from.add(2 * T + (k & 1)) };
        Self(std::array::from_fn(word))
    }

    #[inline(always)]
    unsafe fn repeat_doubles(from: *const u32) -> Self {
        // SAFETY: the caller passes four f64.
        Self(unsafe { from.cast::<[u32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn multiply_add_doubles(self, factor: Self, addend: Self) -> Self {
        let double =
            |words: [u32; 8], k: usize| f64::from_bits(u64::from(words[2 * k]) | u64::from(words[2 * k + 1]) << 32);
        let sums: [u64; 4] =
            std::array::from_fn(|k| double(self.0, k).mul_add(double(factor.0, k), double(addend.0, k)).to_bits());
        Self(std::array::from_fn(|k| (sums[k / 2] >> (32 * (k % 2))) as u32))
    }

    #[inline(always)]
    unsafe fn any_nan<const N: usize>(values: &[[Self; 2]; N]) -> bool {
        values.iter().flatten().any(|value| value.0.iter().any(|&word| f32::from_bits(word).is_nan()))
    }
}

/// What an operation runs, in terms of vectors.
pub(super) trait Kernel {
    /// # Safety
    /// As [`Exec`]; and the machine has V's instruction set, which the function this is put into is compiled for.
    unsafe fn run<V: Vector>(warp: &mut Warp, op: &Op) -> Flow;
}

unsafe fn portable<K: Kernel>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Exec`'s contract.
    unsafe { K::run::<Portable>(warp, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn avx2<K: Kernel>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Exec`'s contract.
    unsafe { K::run::<super::x86::Words8>(warp, op) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<K: Kernel>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller keeps `Exec`'s contract.
    unsafe { K::run::<super::x86::Words16>(warp, op) }
}

/// The kernel for the best instruction set of this machine.
pub(super) fn exec<K: Kernel>() -> Exec {
    let run: Run = match tier() {
        Tier::Portable => portable::<K>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => avx2::<K>,
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => avx512::<K>,
        #[cfg(not(target_arch = "x86_64"))]
        _ => portable::<K>,
    };
    run.into()
}
