//! `cvt`: between every pair of types, and packing.

use ptxvm::ptx::ast::Type;

use crate::{
    exact::{Rounding, Value},
    floating::{rectified, saturated},
    format::{BRAIN, Format, SINGLE},
    modifiers::{Modifiers, integer, limits, low},
};

/// The result of `cvt`, extended to the widest register by the sign of the destination type.
pub(crate) fn evaluate(modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    if modifiers.has("pack") {
        return pack(modifiers, arguments);
    }
    let &[to, from] = modifiers.types.as_slice() else { return None };
    if let Some(result) = scale(modifiers, to, from, arguments) {
        return Some(result);
    }
    match (Format::of(to), Format::of(from), arguments) {
        // Two operands into the halves of one register: the first is the upper half.
        (Some((target, 2)), Some((source, 1)), &[a, b]) => {
            let upper = to_float(modifiers, target, source.decode(flushed_source(modifiers, source, a)));
            let lower = to_float(modifiers, target, source.decode(flushed_source(modifiers, source, b)));
            Some(upper << target.stride() | lower)
        }
        (Some((target, 2)), Some((source, 2)), &[a]) => {
            let part = |pattern| to_float(modifiers, target, source.decode(low(pattern, source.bits())));
            Some(part(a >> source.stride()) << target.stride() | part(a))
        }
        (Some((target, 1)), Some((source, 1)), &[a]) => {
            Some(to_float(modifiers, target, source.decode(flushed_source(modifiers, source, a))))
        }
        (Some((target, 1)), None, &[a]) => Some(to_float(modifiers, target, Value::integer(integer(a, from)))),
        (None, Some((source, 1)), &[a]) => {
            to_integer(modifiers, to, source, source.decode(flushed_source(modifiers, source, a)))
        }
        (None, None, &[a]) => {
            let value = integer(a, from);
            let (smallest, largest) = limits(to);
            Some(if modifiers.has("sat") {
                value.clamp(smallest, largest) as u128
            } else {
                integer(value as u128, to) as u128
            })
        }
        _ => None,
    }
}

/// `.ftz` in a conversion concerns f32 only.
fn flushed_source(modifiers: &Modifiers, source: Format, pattern: u128) -> u128 {
    let pattern = low(pattern, source.bits());
    if modifiers.has("ftz") && source == SINGLE { source.flushed(pattern) } else { pattern }
}

fn to_float(modifiers: &Modifiers, target: Format, value: Value) -> u128 {
    let rounding = modifiers.rounding().unwrap_or(Rounding::NearestEven);
    let value =
        if modifiers.first_of(&["rni", "rzi", "rmi", "rpi"]).is_some() { value.to_integral(rounding) } else { value };
    let pattern = if modifiers.has("satfinite") {
        target.encode_finite(&value, rounding)
    } else {
        target.encode(&value, rounding)
    };
    let pattern = if modifiers.has("ftz") && target == SINGLE { target.flushed(pattern) } else { pattern };
    if modifiers.has("sat") {
        saturated(target, pattern)
    } else if modifiers.has("relu") {
        rectified(target, pattern)
    } else {
        pattern
    }
}

/// Saturates always. NaN gives zero, unless the source is f64 or the destination has 64 bits: then the highest bit.
fn to_integer(modifiers: &Modifiers, to: Type, source: Format, value: Value) -> Option<u128> {
    let rounding = modifiers.rounding()?;
    let (smallest, largest) = limits(to);
    let result = match value.to_integral(rounding) {
        Value::Nan if source.bits() == 64 || to.bits() == 64 => integer(1 << (to.bits() - 1), to),
        Value::Nan => 0,
        Value::Infinity { negative } => {
            if negative {
                smallest
            } else {
                largest
            }
        }
        whole => match whole.to_i128() {
            Some(whole) => whole.clamp(smallest, largest),
            None if whole.is_negative() => smallest,
            None => largest,
        },
    };
    Some(result as u128)
}

/// `cvt.pack.sat`: two integers saturated side by side above the low bits of a third.
fn pack(modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    let word = modifiers.words().find(|word| word.starts_with(['u', 's']) && *word != "sat")?;
    let bits: u32 = word[1..].parse().ok()?;
    let (smallest, largest): (i128, i128) =
        if word.starts_with('s') { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
    let part = |value| low(integer(value, Type::S32).clamp(smallest, largest) as u128, bits);
    let &[a, b, ref rest @ ..] = arguments else { return None };
    let packed = part(a) << bits | part(b);
    Some(match rest.first() {
        Some(c) => low(c << (2 * bits), 32) | packed,
        None => packed,
    })
}

/// Pairs of `.ue8m0`, eight bits of exponent each: the power of two at or below a magnitude (`.rz`), or at or above (`.rp`).
fn scale(modifiers: &Modifiers, to: Type, from: Type, arguments: &[u128]) -> Option<u128> {
    let power = |value: Value| -> u128 {
        let beyond = if modifiers.has("satfinite") { 254 } else { 255 };
        match value {
            Value::Nan => 255,
            Value::Infinity { .. } => beyond,
            Value::Zero { .. } => 0,
            Value::Number(number) => {
                let exact = number.magnitude.count_ones() == 1;
                let exponent = number.floor_log2() + i64::from(modifiers.has("rp") && !exact);
                if exponent > 127 { beyond } else { (exponent + 127).max(0) as u128 }
            }
        }
    };
    match (to, from, arguments) {
        (Type::Ue8m0x2, Type::F32, &[a, b]) => {
            Some(power(SINGLE.decode(low(a, 32))) << 8 | power(SINGLE.decode(low(b, 32))))
        }
        (Type::Ue8m0x2, Type::Bf16x2, &[a]) => {
            Some(power(BRAIN.decode(low(a >> 16, 16))) << 8 | power(BRAIN.decode(low(a, 16))))
        }
        (Type::Bf16x2, Type::Ue8m0x2, &[a]) => {
            let number = |code: u128| match code {
                255 => BRAIN.canonical_nan(),
                code => BRAIN.encode(&Value::double(2f64.powi(code as i32 - 127)), Rounding::NearestEven),
            };
            Some(number(a >> 8 & 0xff) << 16 | number(a & 0xff))
        }
        _ => None,
    }
}
