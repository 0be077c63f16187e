//! Integer arithmetic.

use ptxvm::ptx::ast::Type;

use crate::modifiers::{Modifiers, by_parts, integer, limits, low, signed};

/// The result of an integer instruction, or `None` where the manual has no such instruction.
pub(crate) fn evaluate(opcode: &str, modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    let ty = modifiers.ty()?;
    match ty {
        Type::U16x2 | Type::S16x2 => {
            let part = if ty == Type::U16x2 { Type::U16 } else { Type::S16 };
            Some(by_parts(2, 16, arguments, |halves| packable(opcode, modifiers, part, halves).unwrap_or(0)))
        }
        _ => packable(opcode, modifiers, ty, arguments).or_else(|| scalar(opcode, modifiers, ty, arguments)),
    }
}

/// `add`, `min` and `max`, which exist for two halves side by side too.
fn packable(opcode: &str, modifiers: &Modifiers, ty: Type, arguments: &[u128]) -> Option<u128> {
    let &[a, b] = arguments else { return None };
    let (x, y) = (integer(a, ty), integer(b, ty));
    let result = match opcode {
        "add" => x + y,
        "min" => x.min(y),
        "max" => x.max(y),
        _ => return None,
    };
    let result = if modifiers.has("relu") { result.max(0) } else { result };
    Some(finish(modifiers, ty, result))
}

/// Saturates where asked, else wraps.
fn finish(modifiers: &Modifiers, ty: Type, value: i128) -> u128 {
    let (smallest, largest) = limits(ty);
    low((if modifiers.has("sat") { value.clamp(smallest, largest) } else { value }) as u128, ty.bits())
}

fn scalar(opcode: &str, modifiers: &Modifiers, ty: Type, arguments: &[u128]) -> Option<u128> {
    let bits = ty.bits();
    let values: Vec<i128> = arguments.iter().map(|&value| integer(value, ty)).collect();
    Some(match (opcode, values.as_slice()) {
        ("sub", &[a, b]) => finish(modifiers, ty, a - b),
        ("mul", &[a, b]) => product(modifiers, ty, a, b)?,
        ("mad", &[a, b, _]) => {
            let c = arguments[2];
            let part = product(modifiers, ty, a, b)?;
            if modifiers.has("wide") {
                low(part.wrapping_add(c), 2 * bits)
            } else if modifiers.has("sat") {
                finish(modifiers, ty, integer(part, ty) + integer(c, ty))
            } else {
                low(part.wrapping_add(c), bits)
            }
        }
        ("mul24", &[_, _]) => product24(modifiers, ty, arguments[0], arguments[1])?,
        ("mad24", &[_, _, c]) => {
            let part = product24(modifiers, ty, arguments[0], arguments[1])?;
            finish(modifiers, ty, integer(part, ty) + c)
        }
        ("sad", &[a, b, c]) => low((c + (a - b).abs()) as u128, bits),
        // Division by zero has an unspecified result; tests do not ask for it.
        ("div", &[a, b]) if b != 0 => low((a / b) as u128, bits),
        ("rem", &[a, b]) if b != 0 => low((a % b) as u128, bits),
        ("div" | "rem", &[_, _]) => 0,
        ("abs", &[a]) => low(a.unsigned_abs(), bits),
        ("neg", &[a]) => low(-a as u128, bits),
        _ => return None,
    })
}

/// `.lo`, `.hi` or `.wide` part of a product.
fn product(modifiers: &Modifiers, ty: Type, a: i128, b: i128) -> Option<u128> {
    let full = a.wrapping_mul(b) as u128;
    Some(match modifiers.first_of(&["lo", "hi", "wide"])? {
        "lo" => low(full, ty.bits()),
        "hi" => low(full >> ty.bits(), ty.bits()),
        _ => low(full, 2 * ty.bits()),
    })
}

/// The product of the low 24 bits of both: bits 0–31 (`.lo`) or 16–47 (`.hi`).
fn product24(modifiers: &Modifiers, ty: Type, a: u128, b: u128) -> Option<u128> {
    let narrow = |value| if ty.is_signed() { signed(value, 24) } else { low(value, 24) as i128 };
    let full = (narrow(a) * narrow(b)) as u128;
    Some(match modifiers.first_of(&["lo", "hi"])? {
        "lo" => low(full, 32),
        _ => low(full >> 16, 32),
    })
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`: arithmetic through the carry flag.
pub(crate) fn extended(opcode: &str, modifiers: &Modifiers, arguments: &[u128], carry: &mut bool) -> Option<u128> {
    let ty = modifiers.ty()?;
    let bits = ty.bits();
    let carry_in = u128::from(*carry && matches!(opcode, "addc" | "subc" | "madc"));
    let (first, second) = match (opcode, arguments) {
        ("add" | "addc" | "sub" | "subc", &[a, b]) => (low(a, bits), low(b, bits)),
        ("mad" | "madc", &[a, b, c]) => (product(modifiers, ty, integer(a, ty), integer(b, ty))?, low(c, bits)),
        _ => return None,
    };
    let (result, carry_out) = if opcode.starts_with("sub") {
        let subtrahend = second + carry_in;
        (first.wrapping_sub(subtrahend), subtrahend > first)
    } else {
        let sum = first + second + carry_in;
        (sum, sum >> bits != 0)
    };
    if modifiers.has("cc") {
        *carry = carry_out;
    }
    Some(low(result, bits))
}

/// `dp4a` and `dp2a`: four products of bytes, or two of halves and bytes, and a sum.
pub(crate) fn dot_product(opcode: &str, modifiers: &Modifiers, arguments: &[u128]) -> Option<u128> {
    let (&[a, b, c], &[a_type, b_type]) = (arguments, modifiers.types.as_slice()) else { return None };
    let part = |value: u128, index: u32, bits: u32, ty: Type| {
        let shifted = value >> (index * bits);
        if ty.is_signed() { signed(shifted, bits) } else { low(shifted, bits) as i128 }
    };
    let sum: i128 = match opcode {
        "dp4a" => (0..4).map(|i| part(a, i, 8, a_type) * part(b, i, 8, b_type)).sum(),
        "dp2a" => {
            let skip = if modifiers.has("hi") { 2 } else { 0 };
            (0..2).map(|i| part(a, i, 16, a_type) * part(b, i + skip, 8, b_type)).sum()
        }
        _ => return None,
    };
    Some(low((sum as u128).wrapping_add(c), 32))
}
