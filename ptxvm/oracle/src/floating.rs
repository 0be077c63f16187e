//! Floating-point arithmetic with one rounding, in every format.

use ptxvm::ptx::ast::Type;

use crate::{
    exact::{Rounding, Value},
    format::{DOUBLE, Format, SINGLE},
    modifiers::{Modifiers, by_parts, low},
};

/// Whether an opcode of these types is floating-point.
pub(crate) fn is_floating(modifiers: &Modifiers) -> bool {
    modifiers.ty().is_some_and(Type::is_float)
}

/// The result of a floating-point instruction, or `None` where the manual has no such instruction.
pub(crate) fn evaluate(opcode: &str, modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    if let &[Type::F32, narrow @ (Type::F16 | Type::Bf16)] = modifiers.types.as_slice() {
        return mixed(opcode, modifiers, narrow, arguments);
    }
    let (format, parts) = Format::of(modifiers.ty()?)?;
    if parts == 1 {
        return scalar(opcode, modifiers, format, arguments);
    }
    let mut known = true;
    let packed = by_parts(parts, format.bits(), arguments, |taken| {
        let result = scalar(opcode, modifiers, format, taken);
        known &= result.is_some();
        result.unwrap_or(0)
    });
    known.then_some(packed)
}

/// `add`, `sub` and `fma` of f32 where the first operands are f16 or bf16 (the last one is f32).
fn mixed(opcode: &str, modifiers: &Modifiers, narrow: Type, arguments: &[u128]) -> Option<u128> {
    let (format, _) = Format::of(narrow)?;
    let (last, firsts) = arguments.split_last()?;
    let mut values: Vec<Value> = firsts.iter().map(|&pattern| format.decode(low(pattern, 16))).collect();
    values.push(SINGLE.decode(low(*last, 32)));
    let rounding = modifiers.rounding().unwrap_or(Rounding::NearestEven);
    let result = combine(opcode, &values, rounding)?;
    Some(finished(modifiers, SINGLE, &result, rounding))
}

fn scalar(opcode: &str, modifiers: &Modifiers, format: Format, arguments: &[u128]) -> Option<u128> {
    let ftz = modifiers.has("ftz");
    let patterns: Vec<u128> = arguments
        .iter()
        .map(|&pattern| low(pattern, format.bits()))
        .map(|pattern| if ftz { format.flushed(pattern) } else { pattern })
        .collect();
    let sign = 1 << (format.bits() - 1);
    match (opcode, patterns.as_slice()) {
        ("neg", &[a]) => return Some(a ^ sign),
        ("abs", &[a]) => return Some(a & !sign),
        ("copysign", &[a, b]) => return Some(a & sign | b & !sign),
        ("min" | "max", _) => return extreme(opcode == "min", modifiers, format, &patterns),
        _ => {}
    }
    let values: Vec<Value> = patterns.iter().map(|&pattern| format.decode(pattern)).collect();
    let rounding = modifiers.rounding().unwrap_or(Rounding::NearestEven);
    if (modifiers.has("approx") || modifiers.has("full"))
        && let Some(result) = approximate(opcode, modifiers, format, &values)
    {
        return Some(result);
    }
    let result = combine(opcode, &values, rounding)?;
    Some(finished(modifiers, format, &result, rounding))
}

/// The exact result of the instructions that round once.
fn combine(opcode: &str, values: &[Value], rounding: Rounding) -> Option<Value> {
    Some(match (opcode, values) {
        ("add", [a, b]) => a.plus(b, rounding),
        ("sub", [a, b]) => a.plus(&b.negated(), rounding),
        ("mul", [a, b]) => a.times(b),
        ("fma" | "mad", [a, b, c]) => a.times(b).plus(c, rounding),
        ("div", [a, b]) => a.over(b),
        ("rcp", [a]) => Value::integer(1).over(a),
        ("sqrt", [a]) => a.square_root(),
        _ => return None,
    })
}

/// Rounds, then applies `.ftz`, `.sat` and `.relu`.
fn finished(modifiers: &Modifiers, format: Format, value: &Value, rounding: Rounding) -> u128 {
    let pattern = format.encode(value, rounding);
    let pattern = if modifiers.has("ftz") { format.flushed(pattern) } else { pattern };
    if modifiers.has("sat") {
        saturated(format, pattern)
    } else if modifiers.has("relu") {
        rectified(format, pattern)
    } else {
        pattern
    }
}

/// `.sat`: into [0, 1], NaN to +0.
pub(crate) fn saturated(format: Format, pattern: u128) -> u128 {
    let value = format.decode(pattern);
    let one = Value::integer(1);
    if value.is_nan() || value.is_negative() {
        0
    } else if value.compare(&one) == Some(1) {
        format.encode(&one, Rounding::NearestEven)
    } else {
        pattern
    }
}

/// `.relu`: negative to +0, NaN to the canonical NaN.
pub(crate) fn rectified(format: Format, pattern: u128) -> u128 {
    let value = format.decode(pattern);
    if value.is_nan() {
        format.canonical_nan()
    } else if value.is_negative() {
        0
    } else {
        pattern
    }
}

/// `min` and `max` of two or three operands.
fn extreme(least: bool, modifiers: &Modifiers, format: Format, patterns: &[u128]) -> Option<u128> {
    let (&first, rest) = patterns.split_first()?;
    let sign = 1u128 << (format.bits() - 1);
    let by_magnitude = modifiers.has("abs") || modifiers.has("xorsign");
    let prepared = |pattern: u128| if by_magnitude { pattern & !sign } else { pattern };
    let mut chosen = prepared(first);
    for &pattern in rest {
        chosen = smaller_or_larger(least, modifiers.has("NaN"), format, chosen, prepared(pattern));
    }
    if patterns.len() == 1 {
        return None;
    }
    if modifiers.has("xorsign") {
        let parity = patterns.iter().fold(0, |parity, pattern| parity ^ pattern & sign);
        chosen ^= parity;
    }
    Some(chosen)
}

/// The smaller or the larger of two numbers.
pub(crate) fn smaller_or_larger(least: bool, keep_nan: bool, format: Format, a: u128, b: u128) -> u128 {
    let (x, y) = (format.decode(a), format.decode(b));
    match (x.is_nan(), y.is_nan()) {
        (true, true) => return format.canonical_nan(),
        (true, false) | (false, true) if keep_nan => return format.canonical_nan(),
        (true, false) => return b,
        (false, true) => return a,
        (false, false) => {}
    }
    // +0 is above −0.
    let order = match x.compare(&y) {
        Some(0) => i32::from(y.is_negative()) - i32::from(x.is_negative()),
        other => other.unwrap_or(0),
    };
    if (order <= 0) == least { a } else { b }
}

/// The instructions the manual gives an error bound for: the best result, to be compared within that bound.
fn approximate(opcode: &str, modifiers: &Modifiers, format: Format, values: &[Value]) -> Option<u128> {
    let nearest = Rounding::NearestEven;
    let result = match (opcode, values) {
        ("rcp", [a]) if format == DOUBLE => return Some(coarse(a, |a| Value::integer(1).over(&a))),
        ("rsqrt", [a]) if format == DOUBLE && modifiers.has("ftz") => return Some(coarse(a, |a| root_reciprocal(&a))),
        ("rsqrt", [a]) => root_reciprocal(a),
        ("div", [a, b]) if modifiers.has("approx") && over_two_to_126(b) => match a {
            Value::Nan | Value::Infinity { .. } => Value::Nan,
            _ => Value::Zero { negative: a.is_negative() != b.is_negative() },
        },
        ("sin", [a]) => of_double(a, f64::sin),
        ("cos", [a]) => of_double(a, f64::cos),
        ("lg2", [a]) => of_double(a, f64::log2),
        ("ex2", [a]) => of_double(a, f64::exp2),
        ("tanh", [a]) => of_double(a, f64::tanh),
        _ => return None,
    };
    let pattern = format.encode(&result, nearest);
    Some(if modifiers.has("ftz") { format.flushed(pattern) } else { pattern })
}

/// A function of double precision, whose own error is far below every bound in the manual.
fn of_double(value: &Value, function: impl Fn(f64) -> f64) -> Value {
    Value::double(function(value.to_double()))
}

fn root_reciprocal(a: &Value) -> Value {
    // The root is cut off far below the precision of every result, and the reciprocal is judged within a bound.
    Value::integer(1).over(&a.square_root())
}

/// `rcp.approx.ftz.f64`, `rsqrt.approx.ftz.f64`: the low 32 bits of operand and result are taken as zero.
fn coarse(a: &Value, function: impl Fn(Value) -> Value) -> u128 {
    let upper = |pattern: u128| pattern & !0xffff_ffff;
    let operand = DOUBLE.flushed(upper(DOUBLE.encode(a, Rounding::NearestEven)));
    let result = DOUBLE.encode(&function(DOUBLE.decode(operand)), Rounding::TowardZero);
    DOUBLE.flushed(upper(result))
}

/// Finite and above 2^126 in magnitude: there `div.approx.f32` gives zero.
fn over_two_to_126(value: &Value) -> bool {
    matches!(value, Value::Number(number) if number.floor_log2() >= 126 && !is_power(number, 126))
}

fn is_power(number: &crate::exact::Exact, exponent: i64) -> bool {
    number.floor_log2() == exponent && number.magnitude.count_ones() == 1
}

/// `testp`: a property of a number.
pub(crate) fn test_property(modifiers: &Modifiers, argument: u128) -> Option<bool> {
    let (format, _) = Format::of(modifiers.ty()?)?;
    let pattern = low(argument, format.bits());
    let value = format.decode(pattern);
    let infinite = matches!(value, Value::Infinity { .. });
    Some(match modifiers.first_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"])? {
        "finite" => !infinite && !value.is_nan(),
        "infinite" => infinite,
        "number" => !value.is_nan(),
        "notanumber" => value.is_nan(),
        // The manual counts zeros as normal.
        "normal" => !infinite && !value.is_nan() && !format.is_subnormal(pattern),
        _ => format.is_subnormal(pattern),
    })
}
