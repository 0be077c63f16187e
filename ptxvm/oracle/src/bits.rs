//! Logic, shifts, bit counts and bit fields.

use ptxvm::ptx::ast::Type;

use crate::modifiers::{Modifiers, low, signed};

/// The results of an instruction on bits, in the order of its destinations.
pub(crate) fn evaluate(opcode: &str, modifiers: &Modifiers, arguments: &[u128]) -> Option<Vec<u128>> {
    let ty = modifiers.ty()?;
    let bits = ty.bits();
    let single = match (opcode, arguments) {
        ("and", &[a, b]) => low(a & b, bits),
        ("or", &[a, b]) => low(a | b, bits),
        ("xor", &[a, b]) => low(a ^ b, bits),
        ("not", &[a]) => low(!a, bits),
        ("cnot", &[a]) => u128::from(low(a, bits) == 0),
        ("shl", &[a, b]) => {
            let amount = low(b, 32);
            if amount >= u128::from(bits) { 0 } else { low(a << amount, bits) }
        }
        ("shr", &[a, b]) => shift_right(ty, a, low(b, 32)),
        ("shf", &[a, b, c]) => funnel(modifiers, a, b, c)?,
        ("popc", &[a]) => u128::from(low(a, bits).count_ones()),
        ("clz", &[a]) => u128::from(low(a, bits).leading_zeros() - (128 - bits)),
        ("brev", &[a]) => low(a, bits).reverse_bits() >> (128 - bits),
        ("bfind", &[a]) => find_highest(modifiers, ty, a),
        ("fns", &[a, b, c]) => find_nth(low(a, 32), low(b, 32), signed(c, 32)),
        ("bfe", &[a, b, c]) => extract_field(ty, a, low(b, 8), low(c, 8)),
        ("bfi", &[a, b, c, d]) => insert_field(bits, a, b, low(c, 8), low(d, 8)),
        ("bmsk", &[a, b]) => mask(modifiers, low(a, 32), low(b, 32)),
        ("szext", &[a, b]) => extend(modifiers, ty, low(a, 32), low(b, 32)),
        ("prmt", &[a, b, c]) => permute(modifiers, a, b, low(c, 32)),
        ("lop3", _) => return lookup(modifiers, arguments),
        _ => return None,
    };
    Some(vec![single])
}

fn shift_right(ty: Type, a: u128, amount: u128) -> u128 {
    let bits = ty.bits();
    let amount = amount.min(u128::from(bits));
    if ty.is_signed() { low((signed(a, bits) >> amount) as u128, bits) } else { low(a, bits) >> amount }
}

fn funnel(modifiers: &Modifiers, a: u128, b: u128, c: u128) -> Option<u128> {
    let amount = if modifiers.has("clamp") { low(c, 32).min(32) } else { low(c, 5) };
    let source = low(b, 32) << 32 | low(a, 32);
    Some(if modifiers.has("l") {
        low((source << amount) >> 32, 32)
    } else if modifiers.has("r") {
        low(source >> amount, 32)
    } else {
        return None;
    })
}

fn find_highest(modifiers: &Modifiers, ty: Type, a: u128) -> u128 {
    let bits = ty.bits();
    let negative = ty.is_signed() && signed(a, bits) < 0;
    let searched = low(if negative { !a } else { a }, bits);
    if searched == 0 {
        return 0xffff_ffff;
    }
    let found = 127 - searched.leading_zeros();
    u128::from(if modifiers.has("shiftamt") { bits - 1 - found } else { found })
}

/// `fns`: the offset-th set bit up or down from `base`.
fn find_nth(mask: u128, base: u128, offset: i128) -> u128 {
    const NONE: u128 = 0xffff_ffff;
    let set = |position: i128| (0..32).contains(&position) && mask >> position & 1 == 1;
    if offset == 0 {
        return if set(base as i128) { base } else { NONE };
    }
    let mut position = base as i128;
    let mut count = offset.abs() - 1;
    while (0..32).contains(&position) {
        if set(position) {
            if count == 0 {
                return position as u128;
            }
            count -= 1;
        }
        position += offset.signum();
    }
    NONE
}

fn extract_field(ty: Type, a: u128, position: u128, length: u128) -> u128 {
    let bits = u128::from(ty.bits());
    let bit = |index: u128| a >> index & 1;
    let sign = if ty.is_signed() && length > 0 { bit((position + length - 1).min(bits - 1)) } else { 0 };
    (0..bits).fold(0, |result, i| {
        let value = if i < length && position + i < bits { bit(position + i) } else { sign };
        result | value << i
    })
}

fn insert_field(bits: u32, a: u128, b: u128, position: u128, length: u128) -> u128 {
    let bits = u128::from(bits);
    (0..bits).filter(|i| *i < length && position + i < bits).fold(low(b, bits as u32), |result, i| {
        let target = position + i;
        result & !(1 << target) | (a >> i & 1) << target
    })
}

fn mask(modifiers: &Modifiers, a: u128, b: u128) -> u128 {
    let (a1, b1) = (a & 0x1f, b & 0x1f);
    let clamp = modifiers.has("clamp");
    let all = u128::from(u32::MAX);
    let mask0 = if clamp && a >= 32 { 0 } else { low(all << a1, 32) };
    let sum = a1 + b1;
    let mask1 = if sum >= 32 || (clamp && (a >= 32 || b >= 32)) {
        0
    } else if b1 == 0 {
        all
    } else {
        low(all << sum, 32)
    };
    low(mask0 & !mask1, 32)
}

fn extend(modifiers: &Modifiers, ty: Type, a: u128, b: u128) -> u128 {
    let width = b & 0x1f;
    if modifiers.has("clamp") && b >= 32 {
        return a;
    }
    let above = low(u128::from(u32::MAX) << width, 32);
    let negative = width > 0 && ty.is_signed() && a >> (width - 1) & 1 == 1;
    a & !above | if negative { above } else { 0 }
}

fn permute(modifiers: &Modifiers, a: u128, b: u128, c: u128) -> u128 {
    let source = low(b, 32) << 32 | low(a, 32);
    let byte = |index: usize| low(source >> (8 * index), 8);
    let low_bits = (c & 3) as usize;
    // Bytes 3, 2, 1, 0 of the result for each value of the two low bits of c, as the manual's table lists them.
    let table: [[usize; 4]; 4] = match modifiers.first_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        Some("f4e") => [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        Some("b4e") => [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        Some("rc8") => [[0; 4], [1; 4], [2; 4], [3; 4]],
        Some("ecl") => [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]],
        Some("ecr") => [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]],
        Some(_) => [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        None => {
            return (0..4).fold(0, |result, target| {
                let selection = c >> (4 * target) & 0xf;
                let value = byte((selection & 7) as usize);
                let value = if selection & 8 != 0 { 0xff * (value >> 7) } else { value };
                result | value << (8 * target)
            });
        }
    };
    table[low_bits].iter().fold(0, |result, &index| result << 8 | byte(index))
}

/// `lop3`: the truth table holds the result for each combination of a bit of a, of b and of c.
fn lookup(modifiers: &Modifiers, arguments: &[u128]) -> Option<Vec<u128>> {
    let &[a, b, c, table, ref rest @ ..] = arguments else { return None };
    let result = (0..32).fold(0, |result, i| {
        let row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
        result | (table >> row & 1) << i
    });
    Some(match (modifiers.first_of(&["and", "or"]), rest) {
        (Some("and"), &[q]) => vec![result, u128::from(result != 0) & q],
        (Some(_), &[q]) => vec![result, u128::from(result != 0) | q],
        (None, &[]) => vec![result],
        _ => return None,
    })
}
