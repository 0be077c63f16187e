//! Operands: special values, random ones, and those written by hand.

use ptxvm::ptx::ast::Type;

use crate::random::Random;

/// Exponent and fraction bits of a floating-point type, and how many stand side by side.
pub(crate) fn float_layout(ty: Type) -> Option<(u32, u32, u32)> {
    Some(match ty {
        Type::F16 => (5, 10, 1),
        Type::F16x2 => (5, 10, 2),
        Type::Bf16 => (8, 7, 1),
        Type::Bf16x2 => (8, 7, 2),
        Type::F32 => (8, 23, 1),
        Type::F32x2 => (8, 23, 2),
        Type::F64 => (11, 52, 1),
        Type::E4m3 => (4, 3, 1),
        Type::E5m2 => (5, 2, 1),
        Type::E4m3x2 => (4, 3, 2),
        Type::E5m2x2 => (5, 2, 2),
        _ => return None,
    })
}

/// One operand of a type within a constraint: a range of whole or real numbers `lo..hi`, `nonzero`, `finite`, `normal`
/// (no subnormals, infinities or NaN), `moderate` (magnitudes between 2^−8 and 2^8) or `small` (whole, −4 to 4).
pub(crate) fn draw(random: &mut Random, ty: Type, constraint: &str) -> u64 {
    if let Some((exponent, fraction, count)) = float_layout(ty) {
        let width = 1 + exponent + fraction;
        return (0..count)
            .fold(0, |packed, index| packed | draw_float(random, exponent, fraction, constraint) << (index * width));
    }
    if ty == Type::Pred {
        return random.below(2);
    }
    let bits = ty.bits();
    if let Some((low, high)) = range::<i64>(constraint) {
        return masked((low + random.below((high - low + 1) as u64) as i64) as u64, bits);
    }
    loop {
        let value = masked(draw_integer(random, bits), bits);
        if constraint != "nonzero" || value != 0 {
            return value;
        }
    }
}

pub(crate) fn masked(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

fn range<T: std::str::FromStr>(constraint: &str) -> Option<(T, T)> {
    let (low, high) = constraint.split_once("..")?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

/// From 0 up to but not including 1.
fn unit(random: &mut Random) -> f64 {
    (random.next() >> 11) as f64 / (1u64 << 53) as f64
}

fn draw_integer(random: &mut Random, bits: u32) -> u64 {
    let half = 1u64 << (bits - 1);
    match random.below(8) {
        0 => [0, 1, 2, u64::MAX, u64::MAX - 1, half, half - 1, half + 1][random.below(8) as usize],
        1 => random.below(64),
        2 => 1 << random.below(u64::from(bits)),
        3 => (1u64 << random.below(u64::from(bits))).wrapping_sub(1),
        4 => random.below(64).wrapping_neg(),
        5 => random.next() & random.next() & random.next(),
        _ => random.next(),
    }
}

fn draw_float(random: &mut Random, exponent_bits: u32, fraction_bits: u32, constraint: &str) -> u64 {
    let top = (1u64 << exponent_bits) - 1;
    let bias = top >> 1;
    let fractions = (1u64 << fraction_bits) - 1;
    let sign = random.below(2) << (exponent_bits + fraction_bits);
    let join = |field: u64, fraction: u64| sign | field << fraction_bits | fraction & fractions;
    if let Some((low, high)) = range::<f64>(constraint) {
        return encode(low + unit(random) * (high - low), exponent_bits, fraction_bits);
    }
    match constraint {
        "small" => return encode(random.below(9) as f64 - 4.0, exponent_bits, fraction_bits),
        "moderate" => {
            let spread = 8.min(bias - 1);
            return join(bias - spread + random.below(2 * spread + 1), random.next());
        }
        _ => {}
    }
    // A few formats have numbers where others have infinities; their special values are ordinary ones here.
    let field = match random.below(8) {
        0 => 0,
        1 => top,
        2 => random.below(top + 1),
        3 => bias + random.below(3) - 1,
        4 => bias + u64::from(fraction_bits).min(bias - 1),
        _ => bias - 4.min(bias - 1) + random.below(9.min(top - 4)),
    };
    let fraction = match random.below(6) {
        0 => 0,
        1 => [1, 2, 3, fractions, fractions - 1, fractions >> 1][random.below(6) as usize],
        2 => 1 << random.below(u64::from(fraction_bits)),
        _ => random.next(),
    } & fractions;
    let field = match constraint {
        "normal" => field.clamp(1, top - 1),
        "finite" => field.min(top - 1),
        _ => field,
    };
    join(field, fraction)
}

/// The nearest number of a format; for constants and ranges that lie well inside of it.
fn encode(value: f64, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let sign = u64::from(value.is_sign_negative()) << (exponent_bits + fraction_bits);
    let magnitude = value.abs();
    let bias = (1i64 << (exponent_bits - 1)) - 1;
    let infinity = ((1u64 << exponent_bits) - 1) << fraction_bits;
    if value.is_nan() {
        return infinity | ((1 << fraction_bits) - 1);
    }
    if magnitude.is_infinite() {
        return sign | infinity;
    }
    if magnitude == 0.0 {
        return sign;
    }
    let exponent = (magnitude.log2().floor() as i64).max(1 - bias);
    let significand = (magnitude * 2f64.powi((i64::from(fraction_bits) - exponent) as i32)).round() as u64;
    sign | (significand + (((exponent + bias - 1) as u64) << fraction_bits))
}

/// A value written by hand: a number in the notation of its type (`0x…` is a bit pattern), `nan`, `inf`, `lane`, or
/// `lane` with one of `+`, `*`, `^`, `&`, `>` (shift right) and a number.
pub(crate) fn written(text: &str, ty: Type, lane: usize, line: usize) -> u64 {
    let number = |text: &str| -> u64 {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let value = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        let value = value.unwrap_or_else(|_| panic!("line {line}: `{text}` is no number"));
        if negative { value.wrapping_neg() } else { value }
    };
    if let Some(rest) = text.strip_prefix("lane") {
        let lane = lane as u64;
        let value = match rest.split_at_checked(1) {
            Some(("+", operand)) => lane.wrapping_add(number(operand)),
            Some(("*", operand)) => lane.wrapping_mul(number(operand)),
            Some(("^", operand)) => lane ^ number(operand),
            Some(("&", operand)) => lane & number(operand),
            Some((">", operand)) => lane >> number(operand),
            _ => lane,
        };
        return masked(value, ty.bits());
    }
    match float_layout(ty) {
        Some((exponent, fraction, 1)) if !text.contains("0x") => {
            let value = text.parse().unwrap_or_else(|_| panic!("line {line}: `{text}` is no number"));
            encode(value, exponent, fraction)
        }
        _ => masked(number(text), ty.bits()),
    }
}
