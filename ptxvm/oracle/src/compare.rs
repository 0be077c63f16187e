//! Comparisons and choices.

use ptxvm::ptx::ast::Type;

use crate::{
    exact::{Rounding, Value},
    format::Format,
    modifiers::{Modifiers, integer, low, signed},
};

/// The results of `set`, `setp`, `selp` or `slct`, in the order of the destinations.
pub(crate) fn evaluate(opcode: &str, modifiers: &Modifiers, arguments: &[u128]) -> Option<Vec<u128>> {
    match opcode {
        "set" => set(modifiers, arguments).map(|result| vec![result]),
        "setp" => set_predicate(modifiers, arguments),
        "selp" => match arguments {
            &[a, b, p] => Some(vec![if p & 1 == 1 { a } else { b }]),
            _ => None,
        },
        "slct" => select_by_sign(modifiers, arguments).map(|result| vec![result]),
        _ => None,
    }
}

/// The comparison named by the first modifier.
fn compare(modifiers: &Modifiers, ty: Type, a: u128, b: u128) -> Option<bool> {
    let operator = modifiers.words().next()?;
    if let Some((format, 1)) = Format::of(ty) {
        let decode = |pattern| {
            let pattern = low(pattern, format.bits());
            format.decode(if modifiers.has("ftz") { format.flushed(pattern) } else { pattern })
        };
        return compare_floats(operator, &decode(a), &decode(b));
    }
    let (x, y) = match operator {
        "lo" | "ls" | "hi" | "hs" => (low(a, ty.bits()) as i128, low(b, ty.bits()) as i128),
        _ => (integer(a, ty), integer(b, ty)),
    };
    Some(match operator {
        "eq" => x == y,
        "ne" => x != y,
        "lt" | "lo" => x < y,
        "le" | "ls" => x <= y,
        "gt" | "hi" => x > y,
        "ge" | "hs" => x >= y,
        _ => return None,
    })
}

fn compare_floats(operator: &str, a: &Value, b: &Value) -> Option<bool> {
    let order = a.compare(b);
    Some(match operator {
        "num" => order.is_some(),
        "nan" => order.is_none(),
        "eq" => order == Some(0),
        "ne" => order.is_some_and(|order| order != 0),
        "lt" => order.is_some_and(|order| order < 0),
        "le" => order.is_some_and(|order| order <= 0),
        "gt" => order.is_some_and(|order| order > 0),
        "ge" => order.is_some_and(|order| order >= 0),
        "equ" => order.is_none_or(|order| order == 0),
        "neu" => order != Some(0),
        "ltu" => order.is_none_or(|order| order < 0),
        "leu" => order.is_none_or(|order| order <= 0),
        "gtu" => order.is_none_or(|order| order > 0),
        "geu" => order.is_none_or(|order| order >= 0),
        _ => return None,
    })
}

/// `BoolOp(t, c)`, or `t` where there is no such modifier.
fn combined(modifiers: &Modifiers, t: bool, c: Option<u128>) -> Option<bool> {
    Some(match (modifiers.first_of(&["and", "or", "xor"]), c) {
        (None, None) => t,
        (Some("and"), Some(c)) => t & (c & 1 == 1),
        (Some("or"), Some(c)) => t | (c & 1 == 1),
        (Some("xor"), Some(c)) => t ^ (c & 1 == 1),
        _ => return None,
    })
}

fn set(modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    let (&[a, b, ref rest @ ..], &[result, source]) = (arguments, modifiers.types.as_slice()) else { return None };
    let c = rest.first().copied();
    let one = |ty: Type, truth: bool, bits: u32| match Format::of(ty) {
        _ if !truth => 0,
        Some((format, _)) => format.encode(&Value::integer(1), Rounding::NearestEven),
        None => low(u128::MAX, bits),
    };
    let half = match source {
        Type::F16x2 => Type::F16,
        Type::Bf16x2 => Type::Bf16,
        _ => return Some(one(result, combined(modifiers, compare(modifiers, source, a, b)?, c)?, result.bits())),
    };
    let lower = combined(modifiers, compare(modifiers, half, a, b)?, c)?;
    let upper = combined(modifiers, compare(modifiers, half, a >> 16, b >> 16)?, c)?;
    Some(one(result, upper, 16) << 16 | one(result, lower, 16))
}

fn set_predicate(modifiers: &Modifiers, arguments: &[u128]) -> Option<Vec<u128>> {
    let &[a, b, ref rest @ ..] = arguments else { return None };
    let ty = modifiers.ty()?;
    let c = rest.first().copied();
    let (first, second) = match ty {
        Type::F16x2 => (compare(modifiers, Type::F16, a, b)?, compare(modifiers, Type::F16, a >> 16, b >> 16)?),
        Type::Bf16x2 => (compare(modifiers, Type::Bf16, a, b)?, compare(modifiers, Type::Bf16, a >> 16, b >> 16)?),
        _ => {
            let t = compare(modifiers, ty, a, b)?;
            (t, !t)
        }
    };
    Some(vec![u128::from(combined(modifiers, first, c)?), u128::from(combined(modifiers, second, c)?)])
}

/// `slct`: a if c is at least zero, else b; NaN chooses b.
fn select_by_sign(modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    let (&[a, b, c], &[_, chooser]) = (arguments, modifiers.types.as_slice()) else { return None };
    let at_least_zero = match Format::of(chooser) {
        Some((format, 1)) => {
            let pattern = low(c, format.bits());
            let value = format.decode(if modifiers.has("ftz") { format.flushed(pattern) } else { pattern });
            value.is_zero() || (!value.is_nan() && !value.is_negative())
        }
        _ => signed(c, 32) >= 0,
    };
    Some(if at_least_zero { a } else { b })
}
