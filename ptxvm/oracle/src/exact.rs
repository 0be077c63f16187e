//! Real numbers without rounding: `±magnitude · 2^exponent` over integers of any size.
//!
//! Sums and products are exact. Quotients and square roots carry enough bits that what was cut off can only matter as
//! "something more is below", which [`Exact::sticky`] says.

use num_bigint::BigUint;
use num_traits::{One, ToPrimitive, Zero};

/// Bits kept by a quotient or a square root: more than twice the longest significand, so no rounding decision can
/// depend on anything of what is cut off but whether it is zero.
const QUOTIENT_BITS: u64 = 160;

/// A finite number that is not zero.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exact {
    pub(crate) negative: bool,
    pub(crate) magnitude: BigUint,
    pub(crate) exponent: i64,
    /// The true magnitude lies strictly between `magnitude` and `magnitude + 1`.
    pub(crate) sticky: bool,
}

/// Any value of a floating-point format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Nan,
    Infinity { negative: bool },
    Zero { negative: bool },
    Number(Exact),
}

/// How a value that the format does not hold is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `.rn`
    NearestEven,
    /// `.rna`
    NearestAway,
    /// `.rz`
    TowardZero,
    /// `.rm`
    Down,
    /// `.rp`
    Up,
}

impl Exact {
    /// `floor(log2 |x|)`.
    pub(crate) fn floor_log2(&self) -> i64 {
        i64::try_from(self.magnitude.bits()).expect("a magnitude of fewer than 2^63 bits") - 1 + self.exponent
    }
}

impl Value {
    pub(crate) fn integer(value: i128) -> Self {
        if value == 0 {
            return Self::Zero { negative: false };
        }
        Self::Number(Exact {
            negative: value < 0,
            magnitude: BigUint::from(value.unsigned_abs()),
            exponent: 0,
            sticky: false,
        })
    }

    /// An f64 taken as it is.
    pub(crate) fn double(value: f64) -> Self {
        if value.is_nan() {
            return Self::Nan;
        }
        let negative = value.is_sign_negative();
        if value.is_infinite() {
            return Self::Infinity { negative };
        }
        if value == 0.0 {
            return Self::Zero { negative };
        }
        let bits = value.to_bits();
        let field = (bits >> 52) & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        let (significand, exponent) =
            if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field as i64 - 1075) };
        Self::Number(Exact { negative, magnitude: BigUint::from(significand), exponent, sticky: false })
    }

    /// The nearest f64 (for the functions that have tolerances only).
    pub(crate) fn to_double(&self) -> f64 {
        f64::from_bits(crate::format::DOUBLE.encode(self, Rounding::NearestEven) as u64)
    }

    pub(crate) fn is_nan(&self) -> bool {
        matches!(self, Self::Nan)
    }

    pub(crate) fn is_zero(&self) -> bool {
        matches!(self, Self::Zero { .. })
    }

    /// The sign bit; NaN counts as positive.
    pub(crate) fn is_negative(&self) -> bool {
        match self {
            Self::Nan => false,
            Self::Infinity { negative } | Self::Zero { negative } => *negative,
            Self::Number(number) => number.negative,
        }
    }

    pub(crate) fn negated(&self) -> Self {
        match self.clone() {
            Self::Nan => Self::Nan,
            Self::Infinity { negative } => Self::Infinity { negative: !negative },
            Self::Zero { negative } => Self::Zero { negative: !negative },
            Self::Number(number) => Self::Number(Exact { negative: !number.negative, ..number }),
        }
    }

    /// `self + other`; the rounding decides the sign of an exact zero.
    pub(crate) fn plus(&self, other: &Self, rounding: Rounding) -> Self {
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinity { negative: a }, Self::Infinity { negative: b }) if a != b => Self::Nan,
            (Self::Infinity { .. }, _) => self.clone(),
            (_, Self::Infinity { .. }) => other.clone(),
            (Self::Zero { negative: a }, Self::Zero { negative: b }) => {
                Self::Zero { negative: if a == b { *a } else { rounding == Rounding::Down } }
            }
            (Self::Zero { .. }, _) => other.clone(),
            (_, Self::Zero { .. }) => self.clone(),
            (Self::Number(a), Self::Number(b)) => {
                let exponent = a.exponent.min(b.exponent);
                let x = &a.magnitude << (a.exponent - exponent);
                let y = &b.magnitude << (b.exponent - exponent);
                if a.negative == b.negative {
                    return Self::Number(Exact { negative: a.negative, magnitude: x + y, exponent, sticky: false });
                }
                if x == y {
                    return Self::Zero { negative: rounding == Rounding::Down };
                }
                let (negative, magnitude) = if x > y { (a.negative, x - y) } else { (b.negative, y - x) };
                Self::Number(Exact { negative, magnitude, exponent, sticky: false })
            }
        }
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinity { .. }, Self::Zero { .. }) | (Self::Zero { .. }, Self::Infinity { .. }) => Self::Nan,
            (Self::Infinity { .. }, _) | (_, Self::Infinity { .. }) => Self::Infinity { negative },
            (Self::Zero { .. }, _) | (_, Self::Zero { .. }) => Self::Zero { negative },
            (Self::Number(a), Self::Number(b)) => Self::Number(Exact {
                negative,
                magnitude: &a.magnitude * &b.magnitude,
                exponent: a.exponent + b.exponent,
                sticky: false,
            }),
        }
    }

    pub(crate) fn over(&self, other: &Self) -> Self {
        let negative = self.is_negative() != other.is_negative();
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinity { .. }, Self::Infinity { .. }) | (Self::Zero { .. }, Self::Zero { .. }) => Self::Nan,
            (Self::Infinity { .. }, _) | (_, Self::Zero { .. }) => Self::Infinity { negative },
            (Self::Zero { .. }, _) | (_, Self::Infinity { .. }) => Self::Zero { negative },
            (Self::Number(a), Self::Number(b)) => {
                let numerator = &a.magnitude << (QUOTIENT_BITS + b.magnitude.bits());
                let quotient = &numerator / &b.magnitude;
                let sticky = &quotient * &b.magnitude != numerator;
                let shift = i64::try_from(QUOTIENT_BITS + b.magnitude.bits()).expect("a shift below 2^63");
                Self::Number(Exact { negative, magnitude: quotient, exponent: a.exponent - b.exponent - shift, sticky })
            }
        }
    }

    pub(crate) fn square_root(&self) -> Self {
        match self {
            Self::Nan => Self::Nan,
            Self::Zero { .. } => self.clone(),
            Self::Infinity { negative: false } => self.clone(),
            Self::Infinity { negative: true } => Self::Nan,
            Self::Number(number) if number.negative => Self::Nan,
            Self::Number(number) => {
                // An even exponent after the shift, so that the root's exponent is a whole number.
                let shift = 2 * QUOTIENT_BITS + u64::from(number.exponent % 2 != 0);
                let radicand = &number.magnitude << shift;
                let root = radicand.sqrt();
                let sticky = &root * &root != radicand;
                let exponent = (number.exponent - i64::try_from(shift).expect("a shift below 2^63")) / 2;
                Self::Number(Exact { negative: false, magnitude: root, exponent, sticky })
            }
        }
    }

    /// −1, 0 or 1 as `self` is below, equal to or above `other`; `None` if either is NaN. Zeros are equal.
    pub(crate) fn compare(&self, other: &Self) -> Option<i32> {
        if self.is_nan() || other.is_nan() {
            return None;
        }
        if self.is_zero() && other.is_zero() {
            return Some(0);
        }
        if let (Self::Infinity { negative: a }, Self::Infinity { negative: b }) = (self, other)
            && a == b
        {
            return Some(0);
        }
        let difference = self.plus(&other.negated(), Rounding::NearestEven);
        Some(if difference.is_zero() {
            0
        } else if difference.is_negative() {
            -1
        } else {
            1
        })
    }

    /// Rounded to a whole number, which may be a signed zero. Infinities and NaN stay.
    pub(crate) fn to_integral(&self, rounding: Rounding) -> Self {
        let Self::Number(number) = self else { return self.clone() };
        if number.exponent >= 0 {
            return self.clone();
        }
        let whole = shifted_right(number, -number.exponent, rounding);
        if whole.is_zero() {
            return Self::Zero { negative: number.negative };
        }
        Self::Number(Exact { negative: number.negative, magnitude: whole, exponent: 0, sticky: false })
    }

    /// The whole number, if it is one and fits.
    pub(crate) fn to_i128(&self) -> Option<i128> {
        match self {
            Self::Zero { .. } => Some(0),
            Self::Number(number) if number.exponent >= 0 && number.floor_log2() < 126 => {
                let magnitude = (&number.magnitude << number.exponent).to_i128()?;
                Some(if number.negative { -magnitude } else { magnitude })
            }
            _ => None,
        }
    }
}

/// `magnitude · 2^−shift` rounded to a whole number; a negative shift is exact.
pub(crate) fn shifted_right(number: &Exact, shift: i64, rounding: Rounding) -> BigUint {
    if shift <= 0 {
        return &number.magnitude << -shift;
    }
    let kept = &number.magnitude >> shift;
    let cut = &number.magnitude - (&kept << shift);
    let half = BigUint::one() << (shift - 1);
    let exact = cut.is_zero() && !number.sticky;
    let up = match rounding {
        Rounding::TowardZero => false,
        Rounding::Down => number.negative && !exact,
        Rounding::Up => !number.negative && !exact,
        Rounding::NearestAway => cut >= half,
        Rounding::NearestEven => cut > half || (cut == half && (number.sticky || kept.bit(0))),
    };
    if up { kept + BigUint::one() } else { kept }
}
