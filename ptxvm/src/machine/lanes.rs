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
    /// Puts `values` into the lanes of `mask`, without a branch.
    fn blend(target: &mut [Self; 32], values: &[Self; 32], mask: u32);
}

/// For every pattern of bits a row of words, all ones where the bit is set: vectors are chosen from faster with a row from
/// memory than with the bits spread out.
#[repr(align(64))]
struct Rows<T, const COUNT: usize>([T; COUNT]);

macro_rules! stored {
    ($($ty:ty, $rows:ident, $lanes:literal;)*) => {$(
        static $rows: Rows<[$ty; $lanes], { 1 << $lanes }> = Rows({
            let mut rows = [[0; $lanes]; 1 << $lanes];
            let mut bits = 0;
            while bits < rows.len() {
                let mut lane = 0;
                while lane < $lanes {
                    if bits >> lane & 1 != 0 {
                        rows[bits][lane] = <$ty>::MAX;
                    }
                    lane += 1;
                }
                bits += 1;
            }
            rows
        });

        impl Stored for $ty {
            #[inline(always)]
            fn blend(target: &mut [Self; 32], values: &[Self; 32], mask: u32) {
                for part in 0..32 / $lanes {
                    let row = &$rows.0[mask as usize >> ($lanes * part) & ((1 << $lanes) - 1)];
                    for k in 0..$lanes {
                        let lane = $lanes * part + k;
                        target[lane] ^= (target[lane] ^ values[lane]) & row[k];
                    }
                }
            }
        }
    )*};
}

stored! {
    u32, ROWS_OF_32, 8;
    u64, ROWS_OF_64, 4;
    u128, ROWS_OF_128, 2;
}

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
