//! Rounding that Rust has no word for: directed, to odd, and to the 16-bit formats. Everything here is free of branches, so
//! that it runs for all lanes at once.

/// To nearest, ties to even.
pub(crate) const RN: u8 = 0;
/// Towards zero.
pub(crate) const RZ: u8 = 1;
/// Down.
pub(crate) const RM: u8 = 2;
/// Up.
pub(crate) const RP: u8 = 3;
/// To nearest, ties away from zero.
pub(crate) const RNA: u8 = 4;

/// The NaN that single-precision results are.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The NaN that results in `.f16` and `.bf16` are.
pub(crate) const NAN16: u32 = 0x7fff;

/// A NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN32) } else { x }
}

/// As [`canonical`] for roots: LLVM takes a choice between a NaN and a root that is NaN for no choice at all, and does not
/// see through integers.
#[inline(always)]
pub(crate) fn canonical_root(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { NAN32 } else { bits })
}

/// A subnormal becomes a zero of its sign.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// [`flush`] if `FTZ`.
#[inline(always)]
pub(crate) fn flush_if<const FTZ: bool>(x: f32) -> f32 {
    if FTZ { flush(x) } else { x }
}

/// `.sat`: into [0, 1], NaN to +0.
#[inline(always)]
pub(crate) fn saturate(x: f32) -> f32 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// [`saturate`] in double precision.
#[inline(always)]
pub(crate) fn saturate64(x: f64) -> f64 {
    if x > 0.0 { if x < 1.0 { x } else { 1.0 } } else { 0.0 }
}

/// Double to single precision in any direction.
#[inline(always)]
pub(crate) fn to_single<const MODE: u8>(x: f64) -> f32 {
    let near = x as f32;
    if MODE == RN {
        return near;
    }
    // Rounded to nearest first: at most one step off, and a step from infinity is the largest finite number.
    let back = f64::from(near);
    let bits = near.to_bits();
    let sign = bits >> 31;
    let (off, step) = match MODE {
        RZ => (back.abs() > x.abs(), u32::MAX),
        RM => (back > x, (sign << 1).wrapping_sub(1)),
        _ => (back < x, 1u32.wrapping_sub(sign << 1)),
    };
    f32::from_bits(bits.wrapping_add(if off { step } else { 0 }))
}

/// Double to single precision, to odd: what is inexact gets a last bit of one, so that another rounding to fewer bits is
/// as good as one rounding.
#[inline(always)]
pub(crate) fn to_single_odd(x: f64) -> f32 {
    let zero = to_single::<RZ>(x);
    let inexact = f64::from(zero) < x || f64::from(zero) > x;
    f32::from_bits(zero.to_bits() | u32::from(inexact))
}

/// `a + b` to odd in double precision, without overflow.
#[inline(always)]
pub(crate) fn sum_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let bits = sum.to_bits();
    // NaN where infinities took part: exact.
    let inexact = (error > 0.0) | (error < 0.0);
    let step = if (error > 0.0) == (sum > 0.0) { 1 } else { u64::MAX };
    f64::from_bits(if inexact & (bits & 1 == 0) { bits.wrapping_add(step) } else { bits })
}

/// `a + b` to odd in single precision, without overflow.
#[inline(always)]
pub(crate) fn sum_odd_single(a: f32, b: f32) -> f32 {
    let sum = a + b;
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let bits = sum.to_bits();
    let inexact = (error > 0.0) | (error < 0.0);
    let step = if (error > 0.0) == (sum > 0.0) { 1 } else { u32::MAX };
    f32::from_bits(if inexact & (bits & 1 == 0) { bits.wrapping_add(step) } else { bits })
}

/// `a + b` of exact doubles, to single precision in a direction other than to nearest.
#[inline(always)]
fn directed_sum<const MODE: u8>(a: f64, b: f64) -> f32 {
    let sum = sum_odd(a, b);
    let result = to_single::<MODE>(sum);
    if MODE == RM && sum == 0.0 {
        // Downwards an exact zero is negative unless both terms are positive zeros.
        let sign = (a.to_bits() | b.to_bits()) >> 63;
        return f32::from_bits((sign as u32) << 31);
    }
    result
}

/// `a + b` in single precision.
#[inline(always)]
pub(crate) fn add32<const MODE: u8>(a: f32, b: f32) -> f32 {
    if MODE == RN { a + b } else { directed_sum::<MODE>(f64::from(a), f64::from(b)) }
}

/// `a · b` in single precision.
#[inline(always)]
pub(crate) fn mul32<const MODE: u8>(a: f32, b: f32) -> f32 {
    if MODE == RN { a * b } else { to_single::<MODE>(f64::from(a) * f64::from(b)) }
}

/// `a · b + c` in single precision, rounded once.
#[inline(always)]
pub(crate) fn fma32<const MODE: u8>(a: f32, b: f32, c: f32) -> f32 {
    if MODE == RN { a.mul_add(b, c) } else { directed_sum::<MODE>(f64::from(a) * f64::from(b), f64::from(c)) }
}

/// `a / b` in single precision. The double quotient of two singles that is not itself a single lies on the same side of
/// every single as the exact one does: the distance is at least 2^-48 of it.
#[inline(always)]
pub(crate) fn div32<const MODE: u8>(a: f32, b: f32) -> f32 {
    if MODE == RN { a / b } else { to_single::<MODE>(f64::from(a) / f64::from(b)) }
}

/// `√a` in single precision; what holds for [`div32`] holds for roots.
#[inline(always)]
pub(crate) fn sqrt32<const MODE: u8>(a: f32) -> f32 {
    if MODE == RN { a.sqrt() } else { to_single::<MODE>(f64::from(a).sqrt()) }
}

/// `.f16` bits to single precision, exactly.
#[inline(always)]
pub(crate) fn from_f16(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    let exponent = bits & 0x7c00;
    let normal = magnitude.wrapping_add(112 << 23);
    // Subnormals: the mantissa below a number whose last bit is 2^-24 apart, less that number.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let special = magnitude | 0x7f80_0000;
    let value = if exponent == 0 {
        subnormal
    } else if exponent == 0x7c00 {
        special
    } else {
        normal
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// `.bf16` bits to single precision, exactly.
#[inline(always)]
pub(crate) fn from_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// Whether a magnitude with remainder `rest` below the last bit kept goes up: `half` is half of that last bit.
#[inline(always)]
fn goes_up<const MODE: u8>(rest: u32, half: u32, odd: bool, negative: bool) -> bool {
    match MODE {
        RN => (rest > half) | ((rest == half) & odd),
        RNA => rest >= half,
        RM => negative & (rest != 0),
        RP => !negative & (rest != 0),
        _ => false,
    }
}

/// Single precision to `.f16` bits.
#[inline(always)]
pub(crate) fn to_f16<const MODE: u8>(x: f32) -> u32 {
    let bits = x.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let (value, largest) = if MODE == RN {
        let normal = (magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + (magnitude >> 13 & 1))) >> 13;
        // Below 2^-14 the sum with 0.5 has its last bit at 2^-24.
        let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
        (if magnitude < 113 << 23 { small } else { normal }, 0x7c00)
    } else {
        let negative = sign != 0;
        // The bits kept lie above the last `shift`: 13, more for subnormals, all but one bit at the least.
        let exponent = magnitude >> 23;
        let shift = if exponent >= 113 { 13 } else { 126u32.wrapping_sub(exponent).min(31) };
        let mantissa = if exponent >= 113 { magnitude - (112 << 23) } else { magnitude & 0x7f_ffff | 0x80_0000 };
        let mantissa = if magnitude == 0 { 0 } else { mantissa };
        let kept = mantissa >> shift;
        let rest = mantissa & ((1 << shift) - 1);
        let up = goes_up::<MODE>(rest, 1 << (shift - 1), kept & 1 != 0, negative);
        let to_infinity = match MODE {
            RM => negative,
            RP => !negative,
            RNA => true,
            _ => false,
        };
        (kept + u32::from(up), if to_infinity { 0x7c00 } else { 0x7bff })
    };
    let finite = if value > 0x7bff { largest } else { value };
    // 2^16 and more are past every rounding; infinity itself stays.
    let magnitude16 = if magnitude > 0x7f80_0000 {
        return NAN16;
    } else if magnitude == 0x7f80_0000 {
        0x7c00
    } else if magnitude >= 143 << 23 {
        largest
    } else {
        finite
    };
    sign | magnitude16
}

/// Single precision to `.bf16` bits.
#[inline(always)]
pub(crate) fn to_bf16<const MODE: u8>(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = match MODE {
        RN => bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16,
        RZ => bits >> 16,
        _ => {
            let infinite = bits & 0x7fff_ffff == 0x7f80_0000;
            let up = goes_up::<MODE>(bits & 0xffff, 0x8000, bits >> 16 & 1 != 0, bits >> 31 != 0) & !infinite;
            (bits >> 16) + u32::from(up)
        }
    };
    if x.is_nan() { NAN16 } else { rounded }
}

/// A 16-bit floating-point format.
pub(crate) trait Half: Copy + 'static {
    /// The exponent's bits.
    const EXPONENT: u32;
    /// One.
    const ONE: u32;
}

/// `.f16`.
#[derive(Clone, Copy)]
pub(crate) struct F16;

/// `.bf16`.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;

impl Half for F16 {
    const EXPONENT: u32 = 0x7c00;
    const ONE: u32 = 0x3c00;
}

impl Half for Bf16 {
    const EXPONENT: u32 = 0x7f80;
    const ONE: u32 = 0x3f80;
}
