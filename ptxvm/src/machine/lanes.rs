//! How values of each Rust type lie in the lanes of a register.
//!
//! A register of up to 32 bits is 32 words of 32 bits (narrower values are zero-extended), one of 64 bits 32 words of 64,
//! one of 128 bits 32 words of 128. A predicate is one word of 32 bits, a bit per lane.

use half::{bf16, f16};

/// A type that a lane may hold.
pub trait Lane: Copy + 'static {
    /// What one lane of the register holds.
    type Stored: Stored;
    /// The value from what is stored.
    fn load(stored: Self::Stored) -> Self;
    /// What is stored for the value.
    fn store(self) -> Self::Stored;
}

/// What a lane holds.
pub trait Stored: Copy + Default {
    /// `new` if the lowest bit of `bit` is set, else `old`; without a branch, so that 32 of them are a few vectors.
    fn choose(bit: u32, new: Self, old: Self) -> Self;
}

macro_rules! stored {
    ($($ty:ty)*) => {$(
        impl Stored for $ty {
            #[inline(always)]
            fn choose(bit: u32, new: Self, old: Self) -> Self {
                let keep = Self::from(bit & 1).wrapping_sub(1);
                new & !keep | old & keep
            }
        }
    )*};
}

stored!(u32 u64 u128);

macro_rules! lane {
    ($($ty:ty as $stored:ty: |$from:ident| $load:expr, |$value:ident| $store:expr;)*) => {$(
        impl Lane for $ty {
            type Stored = $stored;
            #[inline(always)]
            fn load($from: $stored) -> Self { $load }
            #[inline(always)]
            fn store(self) -> $stored { let $value = self; $store }
        }
    )*};
}

lane! {
    u8 as u32: |bits| bits as u8, |value| u32::from(value);
    i8 as u32: |bits| bits as i8, |value| u32::from(value as u8);
    u16 as u32: |bits| bits as u16, |value| u32::from(value);
    i16 as u32: |bits| bits as i16, |value| u32::from(value as u16);
    u32 as u32: |bits| bits, |value| value;
    i32 as u32: |bits| bits as i32, |value| value as u32;
    f32 as u32: |bits| f32::from_bits(bits), |value| value.to_bits();
    f16 as u32: |bits| f16::from_bits(bits as u16), |value| u32::from(value.to_bits());
    bf16 as u32: |bits| bf16::from_bits(bits as u16), |value| u32::from(value.to_bits());
    u64 as u64: |bits| bits, |value| value;
    i64 as u64: |bits| bits as i64, |value| value as u64;
    f64 as u64: |bits| f64::from_bits(bits), |value| value.to_bits();
    u128 as u128: |bits| bits, |value| value;
    [u16; 2] as u32: |bits| [bits as u16, (bits >> 16) as u16], |value| u32::from(value[0]) | u32::from(value[1]) << 16;
}
