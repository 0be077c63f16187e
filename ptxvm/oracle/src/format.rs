//! Floating-point formats as bit patterns: what they hold, and rounding into them.

use crate::exact::{Exact, Rounding, Value, shifted_right};
use num_bigint::BigUint;
use num_traits::{ToPrimitive, Zero};
use ptxvm::ptx::ast::Type;

/// A binary format of sign, exponent and fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) exponent_bits: u32,
    pub(crate) fraction_bits: u32,
    /// Unused low bits of the pattern (13 for tf32).
    pub(crate) padding: u32,
    /// The highest exponent field holds infinities and NaNs only. Where false (e4m3) it holds numbers too, all ones is
    /// NaN, and there are no infinities.
    pub(crate) has_infinity: bool,
    /// Some pattern is NaN. Where false (6 and 4 bits) NaN becomes the largest number.
    pub(crate) has_nan: bool,
}

/// `.f16`
pub(crate) const HALF: Format =
    Format { exponent_bits: 5, fraction_bits: 10, padding: 0, has_infinity: true, has_nan: true };
/// `.bf16`
pub(crate) const BRAIN: Format =
    Format { exponent_bits: 8, fraction_bits: 7, padding: 0, has_infinity: true, has_nan: true };
/// `.f32`
pub(crate) const SINGLE: Format =
    Format { exponent_bits: 8, fraction_bits: 23, padding: 0, has_infinity: true, has_nan: true };
/// `.f64`
pub(crate) const DOUBLE: Format =
    Format { exponent_bits: 11, fraction_bits: 52, padding: 0, has_infinity: true, has_nan: true };
/// `.tf32`
pub(crate) const TENSOR: Format =
    Format { exponent_bits: 8, fraction_bits: 10, padding: 13, has_infinity: true, has_nan: true };
/// `.e4m3`
pub(crate) const E4M3: Format =
    Format { exponent_bits: 4, fraction_bits: 3, padding: 0, has_infinity: false, has_nan: true };
/// `.e5m2`
pub(crate) const E5M2: Format =
    Format { exponent_bits: 5, fraction_bits: 2, padding: 0, has_infinity: true, has_nan: true };
/// `.e2m3`
pub(crate) const E2M3: Format =
    Format { exponent_bits: 2, fraction_bits: 3, padding: 0, has_infinity: false, has_nan: false };
/// `.e3m2`
pub(crate) const E3M2: Format =
    Format { exponent_bits: 3, fraction_bits: 2, padding: 0, has_infinity: false, has_nan: false };
/// `.e2m1`
pub(crate) const E2M1: Format =
    Format { exponent_bits: 2, fraction_bits: 1, padding: 0, has_infinity: false, has_nan: false };

impl Format {
    /// The format of a type and how many of it stand side by side in a register.
    pub(crate) fn of(ty: Type) -> Option<(Self, u32)> {
        Some(match ty {
            Type::F16 => (HALF, 1),
            Type::F16x2 => (HALF, 2),
            Type::Bf16 => (BRAIN, 1),
            Type::Bf16x2 => (BRAIN, 2),
            Type::F32 => (SINGLE, 1),
            Type::F32x2 => (SINGLE, 2),
            Type::F64 => (DOUBLE, 1),
            Type::Tf32 => (TENSOR, 1),
            Type::E4m3 => (E4M3, 1),
            Type::E5m2 => (E5M2, 1),
            Type::E4m3x2 => (E4M3, 2),
            Type::E5m2x2 => (E5M2, 2),
            Type::E2m3x2 => (E2M3, 2),
            Type::E3m2x2 => (E3M2, 2),
            Type::E2m1x2 => (E2M1, 2),
            _ => return None,
        })
    }

    /// Width of the pattern.
    pub(crate) fn bits(self) -> u32 {
        1 + self.exponent_bits + self.fraction_bits + self.padding
    }

    /// From one part of a register to the next: 6 bits lie in 8.
    pub(crate) fn stride(self) -> u32 {
        if self.bits() == 6 { 8 } else { self.bits() }
    }

    fn bias(self) -> i64 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    fn highest_field(self) -> u128 {
        (1 << self.exponent_bits) - 1
    }

    fn sign(self, negative: bool) -> u128 {
        u128::from(negative) << (self.bits() - 1)
    }

    /// All ones but the sign: what the manual calls the canonical NaN, and the largest number where there is none.
    pub(crate) fn canonical_nan(self) -> u128 {
        (1 << (self.bits() - 1)) - 1
    }

    pub(crate) fn infinity(self, negative: bool) -> u128 {
        self.sign(negative) | self.highest_field() << (self.fraction_bits + self.padding)
    }

    /// The finite pattern of the largest magnitude.
    pub(crate) fn largest(self, negative: bool) -> u128 {
        let unpadded = if !self.has_nan {
            self.canonical_nan()
        } else if self.has_infinity {
            (self.highest_field() << self.fraction_bits) - 1
        } else {
            (self.highest_field() << self.fraction_bits) | ((1 << self.fraction_bits) - 2)
        };
        self.sign(negative) | unpadded << self.padding
    }

    /// Whether a pattern is subnormal (zero is not).
    pub(crate) fn is_subnormal(self, pattern: u128) -> bool {
        let unpadded = (pattern >> self.padding) & ((1 << (self.exponent_bits + self.fraction_bits)) - 1);
        unpadded != 0 && unpadded >> self.fraction_bits == 0
    }

    /// A subnormal becomes a zero of its sign (`.ftz`).
    pub(crate) fn flushed(self, pattern: u128) -> u128 {
        if self.is_subnormal(pattern) { pattern & self.sign(true) } else { pattern }
    }

    pub(crate) fn decode(self, pattern: u128) -> Value {
        let unpadded = pattern >> self.padding;
        let negative = pattern >> (self.bits() - 1) & 1 == 1;
        let fraction = unpadded & ((1 << self.fraction_bits) - 1);
        let field = unpadded >> self.fraction_bits & self.highest_field();
        if field == self.highest_field() && self.has_nan {
            if self.has_infinity {
                return if fraction == 0 { Value::Infinity { negative } } else { Value::Nan };
            }
            if fraction == (1 << self.fraction_bits) - 1 {
                return Value::Nan;
            }
        }
        if field == 0 && fraction == 0 {
            return Value::Zero { negative };
        }
        let significand = if field == 0 { fraction } else { fraction | 1 << self.fraction_bits };
        let exponent = field.max(1) as i64 - self.bias() - i64::from(self.fraction_bits);
        Value::Number(Exact { negative, magnitude: BigUint::from(significand), exponent, sticky: false })
    }

    /// Rounds; what is too large becomes an infinity or the largest number as the direction of rounding says.
    pub(crate) fn encode(self, value: &Value, rounding: Rounding) -> u128 {
        let number = match value {
            Value::Nan => return self.canonical_nan(),
            Value::Infinity { negative } => return self.infinity(*negative),
            Value::Zero { negative } => return self.sign(*negative),
            Value::Number(number) => number,
        };
        let lowest = 1 - self.bias() - i64::from(self.fraction_bits);
        let quantum = (number.floor_log2() - i64::from(self.fraction_bits)).max(lowest);
        let significand = shifted_right(number, quantum - number.exponent, rounding);
        if significand.is_zero() {
            return self.sign(number.negative);
        }
        let significand = significand.to_u128().expect("a rounded significand is short");
        // A significand below 2^fraction_bits is subnormal (its field is 0 at the lowest quantum); one that rounding
        // carried up to 2^(fraction_bits + 1) moves into the exponent field by the same sum.
        let field = u128::try_from(quantum - lowest).expect("the quantum is at least the lowest");
        let unpadded = (field << self.fraction_bits) + significand;
        let largest = self.largest(false) >> self.padding;
        if unpadded <= largest {
            return self.sign(number.negative) | unpadded << self.padding;
        }
        let to_infinity = match rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::TowardZero => false,
            Rounding::Down => number.negative,
            Rounding::Up => !number.negative,
        };
        if to_infinity && self.has_infinity { self.infinity(number.negative) } else { self.largest(number.negative) }
    }

    /// Rounds with `.satfinite`: infinities and what is too large become the largest number.
    pub(crate) fn encode_finite(self, value: &Value, rounding: Rounding) -> u128 {
        let pattern = match value {
            Value::Infinity { negative } => return self.largest(*negative),
            _ => self.encode(value, rounding),
        };
        match self.decode(pattern) {
            Value::Infinity { negative } => self.largest(negative),
            _ => pattern,
        }
    }
}
