//! Floating point in integers, for what neither the processor nor a wider format gives: double precision rounded in a
//! direction, and 64-bit integers to narrow formats. One lane at a time; rare in kernels.

use super::rounding::{RM, RN, RNA, RP};

/// A binary interchange format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    /// Bits of the significand with the leading one.
    significand: u32,
    /// Bits of the exponent.
    exponent: u32,
}

/// `.f64`.
pub(crate) const F64: Format = Format { significand: 53, exponent: 11 };
/// `.f32`.
pub(crate) const F32: Format = Format { significand: 24, exponent: 8 };
/// `.f16`.
pub(crate) const F16: Format = Format { significand: 11, exponent: 5 };
/// `.bf16`.
pub(crate) const BF16: Format = Format { significand: 8, exponent: 8 };

/// The bits nearest in direction `mode` to ± `magnitude` · 2^`exponent`. The lowest bit of the magnitude may stand for
/// anything non-zero below it, if there are at least two more bits than the format keeps. `magnitude` < 2^127.
pub(crate) fn round(negative: bool, magnitude: u128, exponent: i32, mode: u8, format: Format) -> u64 {
    let kept = format.significand as i32 - 1;
    let bias = (1i32 << (format.exponent - 1)) - 1;
    let sign = u64::from(negative) << (format.significand + format.exponent - 1);
    if magnitude == 0 {
        return sign;
    }
    let top = 127 - magnitude.leading_zeros() as i32 + exponent;
    let mut last = top.max(1 - bias) - kept;
    let shift = last - exponent;
    let (mut quotient, rest, half) = if shift <= 0 {
        (magnitude << -shift, 0, 1)
    } else if shift <= 127 {
        (magnitude >> shift, magnitude & ((1 << shift) - 1), 1u128 << (shift - 1))
    } else {
        (0, 1, 2)
    };
    let up = match mode {
        RN => rest > half || rest == half && quotient & 1 != 0,
        RNA => rest >= half,
        RM => negative && rest != 0,
        RP => !negative && rest != 0,
        _ => false,
    };
    quotient += u128::from(up);
    if quotient >> format.significand != 0 {
        quotient >>= 1;
        last += 1;
    }
    if quotient >> kept == 0 {
        return sign | quotient as u64;
    }
    let biased = last + kept + bias;
    let infinity = ((1u64 << format.exponent) - 1) << kept;
    if biased > 2 * bias {
        let finite = match mode {
            RN | RNA => false,
            RM => !negative,
            RP => negative,
            _ => true,
        };
        return sign | (infinity - u64::from(finite));
    }
    sign | (biased as u64) << kept | quotient as u64 & ((1 << kept) - 1)
}

/// An integer in a format.
pub(crate) fn from_integer(value: i128, mode: u8, format: Format) -> u64 {
    round(value < 0, value.unsigned_abs(), 0, mode, format)
}

/// Sign, significand and exponent of a finite number.
fn parts(x: f64) -> (bool, u128, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = u128::from(bits & ((1 << 52) - 1));
    let significand = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    (bits >> 63 != 0, significand, exponent.max(1) - 1075)
}

/// The significand moved up until bit 125 is its highest one.
fn normal((negative, significand, exponent): (bool, u128, i32)) -> (bool, u128, i32) {
    let shift = significand.leading_zeros().saturating_sub(2);
    (negative, significand << shift, exponent - shift as i32)
}

/// Shifted right; a one among the bits lost stays as the lowest bit.
fn shift_sticky(value: u128, shift: u32) -> u128 {
    if shift > 127 { u128::from(value != 0) } else { value >> shift | u128::from(value & ((1 << shift) - 1) != 0) }
}

/// `a · b + c`, rounded once.
pub(crate) fn fma(a: f64, b: f64, c: f64, mode: u8) -> f64 {
    if !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    let (a, b, third) = (parts(a), parts(b), parts(c));
    let product = (a.0 != b.0, a.1 * b.1, a.2 + b.2);
    let (negative, magnitude, exponent) = match (product.1 == 0, third.1 == 0) {
        (true, true) => (if product.0 == third.0 { product.0 } else { mode == RM }, 0, 0),
        (true, false) => return c,
        (false, true) => product,
        (false, false) => sum(normal(product), normal(third), mode),
    };
    f64::from_bits(round(negative, magnitude, exponent, mode, F64))
}

fn sum(first: (bool, u128, i32), second: (bool, u128, i32), mode: u8) -> (bool, u128, i32) {
    let (large, small) = if first.2 >= second.2 { (first, second) } else { (second, first) };
    let moved = shift_sticky(small.1, large.2.abs_diff(small.2));
    if large.0 == small.0 {
        return (large.0, large.1 + moved, large.2);
    }
    let magnitude = large.1.abs_diff(moved);
    let negative = if magnitude == 0 {
        mode == RM
    } else if large.1 > moved {
        large.0
    } else {
        small.0
    };
    (negative, magnitude, large.2)
}

/// `a + b`.
pub(crate) fn add(a: f64, b: f64, mode: u8) -> f64 {
    fma(a, 1.0, b, mode)
}

/// `a · b`.
pub(crate) fn mul(a: f64, b: f64, mode: u8) -> f64 {
    // A zero of the product's sign, so that it alone decides about the sign of a zero.
    let zero = if a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { 0.0 };
    fma(a, b, zero, mode)
}

/// `a / b`.
pub(crate) fn div(a: f64, b: f64, mode: u8) -> f64 {
    if !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (a, b) = (normal(parts(a)), parts(b));
    // 126 bits by at most 53.
    let quotient = a.1 / b.1;
    let rest = a.1 % b.1 != 0;
    // The quotient has 73 bits or more; below 2^126 there is room for one that stands for the rest.
    let (quotient, exponent) = if quotient >> 125 != 0 {
        (quotient | u128::from(rest), a.2 - b.2)
    } else {
        (quotient << 1 | u128::from(rest), a.2 - b.2 - 1)
    };
    f64::from_bits(round(a.0 != b.0, quotient, exponent, mode, F64))
}

/// `√a`.
pub(crate) fn sqrt(a: f64, mode: u8) -> f64 {
    if !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let (_, mut significand, mut exponent) = normal(parts(a));
    if exponent % 2 != 0 {
        significand >>= 1;
        exponent += 1;
    }
    let root = significand.isqrt();
    let rest = root * root != significand;
    f64::from_bits(round(false, root << 1 | u128::from(rest), exponent / 2 - 1, mode, F64))
}

#[cfg(test)]
mod tests {
    use super::super::rounding::RZ;
    use super::*;

    /// Doubles of every kind, many of them near the ends of the range.
    fn samples() -> Vec<f64> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut numbers = vec![0.0, -0.0, 1.0, -1.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, -5e-324, 1.5, 3.0, 1e308];
        for _ in 0..400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let near = (state >> 20) % 60 + 1000;
            numbers.push(f64::from_bits(state.rotate_left(17)));
            numbers.push(f64::from_bits(state & 0x800f_ffff_ffff_ffff | near << 52));
            numbers.push(f64::from_bits(state & 0x8000_0000_ffff_ffff));
        }
        numbers.retain(|x| !x.is_nan());
        numbers
    }

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn soft_results_to_nearest_are_the_processors() {
        let numbers = samples();
        for (k, &a) in numbers.iter().enumerate() {
            assert!(same(sqrt(a, RN), a.sqrt()), "sqrt({a:e})");
            for &b in numbers.iter().skip(k % 7).step_by(7) {
                let c = numbers[(k * 31 + b.to_bits() as usize % 97) % numbers.len()];
                assert!(same(fma(a, b, c, RN), a.mul_add(b, c)), "fma({a:e}, {b:e}, {c:e})");
                assert!(same(fma(a, b, -(a * b), RN), a.mul_add(b, -(a * b))), "residual({a:e}, {b:e})");
                assert!(same(add(a, b, RN), a + b), "{a:e} + {b:e}");
                assert!(same(mul(a, b, RN), a * b), "{a:e} * {b:e}");
                assert!(same(div(a, b, RN), a / b), "{a:e} / {b:e}");
            }
        }
    }

    #[test]
    fn directed_results_enclose_the_nearest_one_within_a_step() {
        let numbers = samples();
        for pair in numbers.windows(2) {
            let [a, b] = [pair[0], pair[1]];
            for f in [add, mul, div] {
                let (near, down, up, zero) = (f(a, b, RN), f(a, b, RM), f(a, b, RP), f(a, b, RZ));
                if near.is_nan() {
                    continue;
                }
                assert!(down <= near && near <= up, "{a:e}, {b:e}");
                assert!(down == up || down.next_up() == up, "{a:e}, {b:e}: {down:e} {up:e}");
                assert!(zero == if up > 0.0 { down } else { up } || zero == 0.0, "{a:e}, {b:e}");
            }
        }
    }

    #[test]
    fn an_exact_zero_is_negative_downwards_only() {
        assert!(add(1.5, -1.5, RM).is_sign_negative());
        assert!(add(1.5, -1.5, RP).is_sign_positive());
        assert!(mul(0.0, -1.0, RP).is_sign_negative());
    }

    #[test]
    fn wide_integers_round_once() {
        assert_eq!(from_integer((1 << 24) + 1, RN, F32) as u32, 16_777_216f32.to_bits());
        assert_eq!(from_integer((1 << 24) + 1, RP, F32) as u32, 16_777_218f32.to_bits());
        assert_eq!(from_integer(-65_519, RN, F16), 0xfbff);
        assert_eq!(from_integer(65_520, RN, F16), 0x7c00);
        assert_eq!(from_integer(65_520, RZ, F16), 0x7bff);
        assert_eq!(from_integer(i128::from(u64::MAX), RN, F64), (u64::MAX as f64).to_bits());
    }
}
