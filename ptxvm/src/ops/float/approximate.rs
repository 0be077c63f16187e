//! The `.approx` functions: polynomials of our own, closer than the errors that the PTX manual states, with its special
//! values. Only sums and products, so that every instruction set gives the same bits.

use super::rounding::{canonical, canonical_root, flush_if};

/// Added and taken off again, it leaves the nearest integer.
const ROUND32: f32 = 12_582_912.0;
const ROUND64: f64 = 6_755_399_441_055_744.0;

/// 2^n for −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// 2^x without a look at NaN.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let x = if x > 129.0 { 129.0 } else { x };
    let x = if x < -152.0 { -152.0 } else { x };
    let shifted = x + ROUND32;
    let whole = shifted - ROUND32;
    // The integer stands in the low bits of the shifted number.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND32.to_bits() as i32);
    let f = x - whole;
    let p = 0.000_154_697_01f32;
    let p = p * f + 0.001_339_086_7;
    let p = p * f + 0.009_618_031;
    let p = p * f + 0.055_503_57;
    let p = p * f + 0.240_226_5;
    let p = p * f + std::f32::consts::LN_2;
    let mantissa = p * f + 1.0;
    // In two steps: the result may be subnormal, or infinite.
    let half = n >> 1;
    mantissa * power_of_two(half) * power_of_two(n - half)
}

/// `ex2.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn ex2<const FTZ: bool>(x: f32) -> f32 {
    let result = exp2(if x.is_nan() { 0.0 } else { x });
    canonical(if x.is_nan() { x } else { flush_if::<FTZ>(result) })
}

/// `lg2.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn lg2<const FTZ: bool>(x: f32) -> f32 {
    let x = flush_if::<FTZ>(x);
    let bits = x.to_bits();
    let subnormal = bits & 0x7f80_0000 == 0;
    let scaled = if subnormal { (x * 8_388_608.0).to_bits() } else { bits };
    // The mantissa between √½ and √2.
    let offset = scaled.wrapping_sub(0x3f35_04f3);
    let exponent = (offset as i32 >> 23) - if subnormal { 23 } else { 0 };
    let m = f32::from_bits((offset & 0x7f_ffff).wrapping_add(0x3f35_04f3));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = 0.431_950_85f32;
    let p = p * z + 0.576_706_34;
    let p = p * z + 0.961_798_9;
    let p = p * z + 2.885_39;
    let value = exponent as f32 + s * p;
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x < 0.0 { f32::NAN } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    canonical(if x.is_nan() { x } else { value })
}

/// `x` less the nearest multiple of π/2, and that multiple's number modulo 4.
#[inline(always)]
fn quadrant(x: f32) -> (f32, i32) {
    let x = f64::from(x);
    let turns = x * std::f64::consts::FRAC_2_PI;
    // Beyond 2^51 quarter turns nothing of the angle is left in single precision anyway.
    let turns = if turns.abs() < 2_251_799_813_685_248.0 { turns } else { 0.0 };
    let shifted = turns + ROUND64;
    let rest = (turns - (shifted - ROUND64)) * std::f64::consts::FRAC_PI_2;
    (rest as f32, (shifted.to_bits() & 3) as i32)
}

#[inline(always)]
fn sine_of(x: f32) -> f32 {
    let z = x * x;
    let p = -0.000_195_033_52f32;
    let p = p * z + 0.008_332_032;
    let p = p * z - 0.166_666_5;
    x + x * (p * z)
}

#[inline(always)]
fn cosine_of(x: f32) -> f32 {
    let z = x * x;
    let p = 2.437_909_3e-5f32;
    let p = p * z - 0.001_388_661;
    let p = p * z + 0.041_666_616;
    let p = p * z - 0.5;
    p * z + 1.0
}

/// Sine of `x` plus `quarters` quarter turns.
#[inline(always)]
fn sine_shifted(x: f32, quarters: i32) -> f32 {
    let (rest, number) = quadrant(x);
    let number = number + quarters;
    let value = if number & 1 != 0 { cosine_of(rest) } else { sine_of(rest) };
    let value = f32::from_bits(value.to_bits() ^ ((number as u32) & 2) << 30);
    if x.is_finite() { value } else { f32::from_bits(super::rounding::NAN32) }
}

/// `sin.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn sin<const FTZ: bool>(x: f32) -> f32 {
    let x = flush_if::<FTZ>(x);
    let value = flush_if::<FTZ>(sine_shifted(x, 0));
    // The sign of a zero and the bits of a subnormal are the argument's.
    if x.abs() < 1e-5 { x } else { value }
}

/// `cos.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn cos<const FTZ: bool>(x: f32) -> f32 {
    flush_if::<FTZ>(sine_shifted(flush_if::<FTZ>(x), 1))
}

/// `tanh.approx.f32`.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let z = x * x;
    let p = -0.005_496_801_4f32;
    let p = p * z + 0.020_443_706;
    let p = p * z - 0.053_675_227;
    let p = p * z + 0.133_305_57;
    let p = p * z - 0.333_332_36;
    let small = x * (p * z + 1.0);
    let bounded = if magnitude < 16.0 { magnitude } else { 16.0 };
    let large = 1.0 - 2.0 / (exp2(bounded * (2.0 * std::f32::consts::LOG2_E)) + 1.0);
    let large = f32::from_bits(large.to_bits() | x.to_bits() & 0x8000_0000);
    canonical(if magnitude < 0.625 || x.is_nan() { small } else { large })
}

/// `rcp.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn rcp<const FTZ: bool>(x: f32) -> f32 {
    canonical(flush_if::<FTZ>(1.0 / flush_if::<FTZ>(x)))
}

/// `sqrt.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn sqrt<const FTZ: bool>(x: f32) -> f32 {
    canonical_root(flush_if::<FTZ>(x).sqrt())
}

/// `rsqrt.approx{.ftz}.f32`.
#[inline(always)]
pub(crate) fn rsqrt<const FTZ: bool>(x: f32) -> f32 {
    canonical_root(1.0 / flush_if::<FTZ>(x).sqrt())
}

/// `div.approx{.ftz}.f32`: a zero quotient by divisors beyond 2^126, as the reciprocal they are divided with is flushed.
#[inline(always)]
pub(crate) fn div<const FTZ: bool>(a: f32, b: f32) -> f32 {
    let (a, b) = (flush_if::<FTZ>(a), flush_if::<FTZ>(b));
    let magnitude = b.abs();
    let huge = (magnitude > 8.507_059e37) & (magnitude < f32::INFINITY);
    let quotient = flush_if::<FTZ>(a / b);
    let zero = a * f32::from_bits(b.to_bits() & 0x8000_0000);
    canonical(if huge { zero } else { quotient })
}

/// `div.full{.ftz}.f32`.
#[inline(always)]
pub(crate) fn div_full<const FTZ: bool>(a: f32, b: f32) -> f32 {
    canonical(flush_if::<FTZ>(flush_if::<FTZ>(a) / flush_if::<FTZ>(b)))
}

/// The upper 32 bits of a double, rounded, and the lower ones zero; subnormals are zeros.
#[inline(always)]
fn upper_half(x: f64) -> f64 {
    let bits = x.to_bits();
    let exponent = bits >> 52 & 0x7ff;
    let rounded = bits.wrapping_add(0x8000_0000) & !0xffff_ffff;
    f64::from_bits(match exponent {
        0 => bits & 1 << 63,
        0x7ff if x.is_nan() => 0x7fff_ffff_0000_0000,
        0x7ff => bits,
        _ => rounded,
    })
}

/// What the coarse functions see of a double: its upper 32 bits, a zero for a subnormal.
#[inline(always)]
fn coarse(x: f64) -> f64 {
    let bits = if x.is_nan() { x.to_bits() } else { x.to_bits() & !0xffff_ffff };
    f64::from_bits(if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 1 << 63 } else { bits })
}

/// `rcp.approx.ftz.f64`.
#[inline(always)]
pub(crate) fn rcp64(x: f64) -> f64 {
    upper_half(1.0 / coarse(x))
}

/// `rsqrt.approx.ftz.f64`.
#[inline(always)]
pub(crate) fn rsqrt64(x: f64) -> f64 {
    upper_half(1.0 / coarse(x).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference from `exact` relative to `scale`, over many arguments from `low` to `high`.
    fn error(f: fn(f32) -> f32, exact: fn(f64) -> f64, scale: fn(f64) -> f64, low: f32, high: f32) -> f64 {
        (0..=200_000)
            .map(|k| {
                let x = low + (high - low) * (k as f32 / 200_000.0);
                let wanted = exact(f64::from(x));
                (f64::from(f(x)) - wanted).abs() / scale(wanted)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn errors_are_within_the_manuals() {
        let bound = |exponent: f64| 2f64.powf(exponent);
        assert!(error(ex2::<false>, f64::exp2, f64::abs, -126.0, 127.9) < bound(-22.5));
        assert!(error(lg2::<false>, f64::log2, |_| 1.0, 0.5, 2.0) < bound(-22.0));
        assert!(error(lg2::<false>, f64::log2, f64::abs, 2.0, 1e30) < bound(-22.0));
        assert!(error(lg2::<false>, f64::log2, f64::abs, 1e-38, 0.5) < bound(-22.0));
        let turn = std::f32::consts::TAU;
        assert!(error(sin::<false>, f64::sin, |_| 1.0, -turn, turn) < bound(-20.5));
        assert!(error(cos::<false>, f64::cos, |_| 1.0, -turn, turn) < bound(-20.5));
        assert!(error(sin::<false>, f64::sin, |_| 1.0, -300.0, 300.0) < bound(-20.5));
        assert!(error(tanh, f64::tanh, |x| x.abs().max(1e-30), -20.0, 20.0) < bound(-11.0));
        assert!(error(rsqrt::<false>, |x| 1.0 / x.sqrt(), f64::abs, 1e-3, 1e3) < bound(-22.9));
    }

    #[test]
    fn special_values_are_the_manuals() {
        assert_eq!(ex2::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(ex2::<false>(f32::INFINITY), f32::INFINITY);
        assert_eq!(ex2::<false>(128.0), f32::INFINITY);
        assert_eq!(ex2::<false>(-149.0).to_bits(), 1);
        assert_eq!(ex2::<true>(-127.0), 0.0);
        assert_eq!(ex2::<false>(0.0), 1.0);
        assert_eq!(ex2::<false>(f32::NAN).to_bits(), 0x7fff_ffff);
        assert_eq!(lg2::<false>(0.0), f32::NEG_INFINITY);
        assert_eq!(lg2::<false>(-0.0), f32::NEG_INFINITY);
        assert_eq!(lg2::<false>(f32::from_bits(1)), -149.0);
        assert_eq!(lg2::<true>(f32::from_bits(1)), f32::NEG_INFINITY);
        assert_eq!(lg2::<false>(1.0), 0.0);
        assert_eq!(lg2::<false>(8.0), 3.0);
        assert_eq!(lg2::<false>(f32::INFINITY), f32::INFINITY);
        assert_eq!(lg2::<false>(-1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(sin::<false>(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(sin::<false>(f32::INFINITY).to_bits(), 0x7fff_ffff);
        assert_eq!(cos::<false>(0.0), 1.0);
        assert_eq!(rcp::<false>(-0.0), f32::NEG_INFINITY);
        assert_eq!(rsqrt::<false>(-0.0), f32::NEG_INFINITY);
        assert_eq!(rsqrt::<false>(-1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(sqrt::<false>(-1.0).to_bits(), 0x7fff_ffff);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(div::<false>(1.0, 1e38).to_bits(), 0);
        assert!(div::<false>(f32::INFINITY, 1e38).is_nan());
        assert_eq!(rcp64(3.0).to_bits() & 0xffff_ffff, 0);
        assert!((rcp64(3.0) * 3.0 - 1.0).abs() < 1e-6);
    }
}
