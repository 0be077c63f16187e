//! What counts as equal.

use ptxvm::ptx::ast::Type;

use crate::operands::{float_layout, masked};

/// How two results are compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rule {
    /// Any NaN equals any other (`nan`), where the manual leaves its bits open.
    nan: bool,
    /// Zeros of both signs are equal (`zero`).
    zero: bool,
    /// Patterns at most this far apart are equal (`ulp=2`).
    ulp: u64,
    /// Values at most this far apart are equal (`abs=1e-6`).
    absolute: f64,
    /// Values apart by at most this part of the second are equal (`rel=1e-6`).
    relative: f64,
    /// Only these bits count (`mask=0xff`).
    mask: Option<u64>,
}

impl Rule {
    pub(crate) fn parse(text: &str) -> Self {
        let mut rule = Self::default();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || parse_number(value).unwrap_or_else(|| panic!("`{word}` in `compare:` has no number"));
            match name {
                "nan" => rule.nan = true,
                "zero" => rule.zero = true,
                "ulp" => rule.ulp = number() as u64,
                "abs" => rule.absolute = number(),
                "rel" => rule.relative = number(),
                "mask" => {
                    let digits = value.trim_start_matches("0x");
                    rule.mask = Some(u64::from_str_radix(digits, 16).expect("a mask is hexadecimal"));
                }
                _ => panic!("`{word}` in `compare:` is unknown"),
            }
        }
        rule
    }

    /// Whether `actual` is as good as `expected`.
    pub(crate) fn equal(&self, ty: Type, actual: u64, expected: u64) -> bool {
        if let Some(mask) = self.mask {
            return actual & mask == expected & mask;
        }
        let Some((exponent, fraction, count)) = float_layout(ty) else { return actual == expected };
        let width = 1 + exponent + fraction;
        (0..count).all(|index| {
            let part = |packed: u64| masked(packed >> (index * width), width);
            self.equal_floats(exponent, fraction, part(actual), part(expected))
        })
    }

    fn equal_floats(&self, exponent_bits: u32, fraction_bits: u32, actual: u64, expected: u64) -> bool {
        if actual == expected {
            return true;
        }
        let infinity = ((1u64 << exponent_bits) - 1) << fraction_bits;
        let magnitudes = (1u64 << (exponent_bits + fraction_bits)) - 1;
        let (x, y) = (actual & magnitudes, expected & magnitudes);
        if x > infinity || y > infinity {
            return self.nan && x > infinity && y > infinity;
        }
        if self.zero && x == 0 && y == 0 {
            return true;
        }
        // Patterns in the order of their values, so that neighbours differ by one.
        let ordered = |pattern: u64| {
            let magnitude = (pattern & magnitudes) as i64;
            if pattern > magnitudes { -magnitude } else { magnitude }
        };
        if self.ulp > 0 && ordered(actual).abs_diff(ordered(expected)) <= self.ulp {
            return true;
        }
        let (actual, expected) =
            (value(exponent_bits, fraction_bits, actual), value(exponent_bits, fraction_bits, expected));
        let difference = (actual - expected).abs();
        (self.absolute > 0.0 && difference <= self.absolute)
            || (self.relative > 0.0 && difference <= self.relative * expected.abs())
    }
}

fn parse_number(text: &str) -> Option<f64> {
    match text.strip_prefix("2^") {
        Some(exponent) => Some(2f64.powf(exponent.parse().ok()?)),
        None => text.parse().ok(),
    }
}

/// The value of a pattern; infinities are infinite.
fn value(exponent_bits: u32, fraction_bits: u32, pattern: u64) -> f64 {
    let top = (1u64 << exponent_bits) - 1;
    let bias = (top >> 1) as i32;
    let field = pattern >> fraction_bits & top;
    let fraction = pattern & ((1 << fraction_bits) - 1);
    let sign = if pattern >> (exponent_bits + fraction_bits) & 1 == 1 { -1.0 } else { 1.0 };
    if field == top {
        return sign * f64::INFINITY;
    }
    let (significand, exponent) =
        if field == 0 { (fraction, 1) } else { (fraction | 1 << fraction_bits, field as i32) };
    // In two steps, since the power alone may be below the smallest double.
    let scaled = significand as f64 * 2f64.powi(-(fraction_bits as i32));
    sign * scaled * 2f64.powi(exponent - bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_apart_across_zero() {
        let rule = Rule::parse("ulp=2");
        assert!(rule.equal(Type::F32, 0x8000_0001, 1));
        assert!(!rule.equal(Type::F32, 0x8000_0002, 1));
    }

    #[test]
    fn nan_is_equal_only_where_said() {
        assert!(!Rule::parse("").equal(Type::F32, 0x7fc0_0000, 0x7fff_ffff));
        assert!(Rule::parse("nan").equal(Type::F32, 0x7fc0_0000, 0x7fff_ffff));
        assert!(!Rule::parse("nan ulp=4 abs=1").equal(Type::F32, 0x7fc0_0000, 0));
    }

    #[test]
    fn halves_are_judged_one_by_one() {
        let rule = Rule::parse("zero");
        assert!(rule.equal(Type::F16x2, 0x8000_3c00, 0x0000_3c00));
        assert!(!rule.equal(Type::F16x2, 0x8000_3c00, 0x0000_3c01));
    }
}
