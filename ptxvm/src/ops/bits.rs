//! Counting, finding and moving bits: `popc clz bfind fns brev bfe bfi bmsk szext dp4a dp2a prmt`.

use crate::{
    machine::{
        op::{Body, Exec, Flow, NO_SLOT, Op, exec, free, map1, map2, map3},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// The highest bit that differs from the sign; all ones if there is none.
#[inline(always)]
fn find(a: u32) -> u32 {
    31u32.wrapping_sub(a.leading_zeros())
}

#[inline(always)]
fn find64(a: u64) -> u32 {
    63u32.wrapping_sub(a.leading_zeros())
}

fn bfind(ty: Type, shift: bool) -> Option<Exec> {
    Some(match (ty, shift) {
        (Type::U32, false) => map1(find),
        (Type::U32, true) => map1(|a: u32| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        (Type::S32, false) => map1(|a: i32| find((a ^ a >> 31) as u32)),
        (Type::S32, true) => map1(|a: i32| {
            let bits = (a ^ a >> 31) as u32;
            if bits == 0 { u32::MAX } else { bits.leading_zeros() }
        }),
        (Type::U64, false) => map1(find64),
        (Type::U64, true) => map1(|a: u64| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        (Type::S64, false) => map1(|a: i64| find64((a ^ a >> 63) as u64)),
        (Type::S64, true) => map1(|a: i64| {
            let bits = (a ^ a >> 63) as u64;
            if bits == 0 { u32::MAX } else { bits.leading_zeros() }
        }),
        _ => return None,
    })
}

/// `fns`: the bit that is the `offset`-th set one from `base` on, upwards or (negative) downwards; 0: `base` itself.
fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let wanted = offset.unsigned_abs() as usize - 1;
    let mut set: Box<dyn Iterator<Item = u32>> =
        if offset > 0 { Box::new(base..32) } else { Box::new((0..=base).rev()) };
    set.by_ref().filter(|bit| mask >> bit & 1 != 0).nth(wanted).unwrap_or(u32::MAX)
}

/// `bfe`: `length` bits from `position` on; beyond the top the sign bit (or zero) goes on.
#[inline(always)]
fn extract32<const SIGNED: bool>(a: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 0xff, length & 0xff);
    let sign = SIGNED && length != 0 && a >> (position + length - 1).min(31) & 1 != 0;
    let shifted = if position < 32 { a >> position } else { 0 };
    let count = length.min(32u32.saturating_sub(position));
    let mask = if count < 32 { (1 << count) - 1 } else { u32::MAX };
    shifted & mask | if sign { !mask } else { 0 }
}

#[inline(always)]
fn extract64<const SIGNED: bool>(a: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let sign = SIGNED && length != 0 && a >> (position + length - 1).min(63) & 1 != 0;
    let shifted = if position < 64 { a >> position } else { 0 };
    let count = length.min(64u32.saturating_sub(position));
    let mask = if count < 64 { (1 << count) - 1 } else { u64::MAX };
    shifted & mask | if sign { !mask } else { 0 }
}

/// The bits of a field of `length` at `position`.
#[inline(always)]
fn field32(position: u32, length: u32) -> u32 {
    let (position, length) = (position & 0xff, length & 0xff);
    let ones = if length < 32 { (1u32 << length) - 1 } else { u32::MAX };
    if position < 32 { ones << position } else { 0 }
}

#[inline(always)]
fn field64(position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let ones = if length < 64 { (1u64 << length) - 1 } else { u64::MAX };
    if position < 64 { ones << position } else { 0 }
}

/// `bfi.b32` in every lane; `x` and `y` are nothing, the fourth source is `wide[0]`.
fn insert32() -> Exec {
    free(
        #[inline(always)]
        |warp, op| {
            // SAFETY: the decoder made all slots for 32-bit words.
            unsafe {
                let (a, b, c) = (warp.lanes::<u32>(op.a), warp.lanes::<u32>(op.b), warp.lanes::<u32>(op.c));
                let length = warp.lanes::<u32>(warp.wide(op)[0]);
                let mut result = [0; 32];
                for lane in 0..32 {
                    // Beyond the top there is no field, whatever is moved there.
                    let field = field32(c[lane], length[lane]);
                    let moved = a[lane] << (c[lane] & 31);
                    result[lane] = moved & field | b[lane] & !field;
                }
                warp.write::<u32>(op.d, &result);
            }
            Flow::Next
        },
    )
}

fn insert64() -> Exec {
    free(
        #[inline(always)]
        |warp, op| {
            // SAFETY: the decoder made `a`, `b` and `d` for 64-bit words, the others for 32-bit ones.
            unsafe {
                let (a, b, c) = (warp.lanes::<u64>(op.a), warp.lanes::<u64>(op.b), warp.lanes::<u32>(op.c));
                let length = warp.lanes::<u32>(warp.wide(op)[0]);
                let mut result = [0; 32];
                for lane in 0..32 {
                    let field = field64(c[lane], length[lane]);
                    let moved = a[lane] << (c[lane] & 63);
                    result[lane] = moved & field | b[lane] & !field;
                }
                warp.write::<u64>(op.d, &result);
            }
            Flow::Next
        },
    )
}

/// Byte `k` of a word with its sign, or without.
#[inline(always)]
fn byte<const SIGNED: bool>(word: u32, k: u32) -> i32 {
    if SIGNED { i32::from((word >> (8 * k)) as i8) } else { i32::from((word >> (8 * k)) as u8) }
}

#[inline(always)]
fn dp4a<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let sum = byte::<A>(a, 0) * byte::<B>(b, 0)
        + byte::<A>(a, 1) * byte::<B>(b, 1)
        + byte::<A>(a, 2) * byte::<B>(b, 2)
        + byte::<A>(a, 3) * byte::<B>(b, 3);
    c.wrapping_add(sum as u32)
}

/// Two 16-bit numbers of `a` by the two low (or high) bytes of `b`.
#[inline(always)]
fn dp2a<const A: bool, const B: bool, const HIGH: bool>(a: u32, b: u32, c: u32) -> u32 {
    let half = |k: u32| if A { i32::from((a >> (16 * k)) as i16) } else { i32::from((a >> (16 * k)) as u16) };
    let first = if HIGH { 2 } else { 0 };
    let low = half(0).wrapping_mul(byte::<B>(b, first));
    let high = half(1).wrapping_mul(byte::<B>(b, first + 1));
    c.wrapping_add(low.wrapping_add(high) as u32)
}

fn dot(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let second = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let first = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let part = if i.opcode == "dp2a" { modifiers.take_any(&["lo", "hi"]) } else { None };
    modifiers.finish(b)?;
    if ![first, second].iter().all(|ty| matches!(ty, Type::U32 | Type::S32)) {
        return Err(b.unknown(i));
    }
    let exec = match (i.opcode.as_str(), part, first.is_signed(), second.is_signed()) {
        ("dp4a", _, false, false) => map3(dp4a::<false, false>),
        ("dp4a", _, false, true) => map3(dp4a::<false, true>),
        ("dp4a", _, true, false) => map3(dp4a::<true, false>),
        ("dp4a", _, true, true) => map3(dp4a::<true, true>),
        (_, Some("lo"), false, false) => map3(dp2a::<false, false, false>),
        (_, Some("lo"), false, true) => map3(dp2a::<false, true, false>),
        (_, Some("lo"), true, false) => map3(dp2a::<true, false, false>),
        (_, Some("lo"), true, true) => map3(dp2a::<true, true, false>),
        (_, Some("hi"), false, false) => map3(dp2a::<false, false, true>),
        (_, Some("hi"), false, true) => map3(dp2a::<false, true, true>),
        (_, Some("hi"), true, false) => map3(dp2a::<true, false, true>),
        (_, Some("hi"), true, true) => map3(dp2a::<true, true, true>),
        _ => return Err(b.error(i, ".lo or .hi is required")),
    };
    b.map_instruction(i, exec, Type::U32, &[first, second, Type::U32])
}

/// The bytes of `b:a` that the four nibbles of `selector` name; a nibble's top bit spreads the byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let mut result = 0;
    for k in 0..4 {
        let nibble = selector >> (4 * k);
        let word = a ^ ((a ^ b) & (nibble >> 2 & 1).wrapping_neg());
        let byte = word >> (8 * (nibble & 3)) & 0xff;
        let sign = 0xff * (byte >> 7);
        let byte = byte ^ ((byte ^ sign) & (nibble >> 3 & 1).wrapping_neg());
        result |= byte << (8 * k);
    }
    result
}

/// The selector of a named mode, by the two low bits of `c`.
#[inline(always)]
fn mode_selector(mode: u32, c: u32) -> u32 {
    let row: [u32; 4] = match mode {
        // Four bytes forward from byte c, backward from byte c, byte c four times.
        0 => [0x3210, 0x4321, 0x5432, 0x6543],
        1 => [0x5670, 0x6701, 0x7012, 0x0123],
        2 => [0x0000, 0x1111, 0x2222, 0x3333],
        // Clamped to the left edge and to the right one; a half twice.
        3 => [0x3210, 0x3211, 0x3222, 0x3333],
        4 => [0x0000, 0x1110, 0x2210, 0x3210],
        _ => [0x1010, 0x3232, 0x1010, 0x3232],
    };
    row[(c & 3) as usize]
}

fn prmt(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let mode = modifiers.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
    let ty = modifiers.take_type();
    modifiers.finish(b)?;
    if ty != Some(Type::B32) {
        return Err(b.unknown(i));
    }
    let word = Type::B32;
    let [_, _, _, selector] = b.operands::<4>(i)?;
    if let Some(mode) = mode {
        let exec = match mode {
            "f4e" => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(0, c))),
            "b4e" => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(1, c))),
            "rc8" => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(2, c))),
            "ecl" => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(3, c))),
            "ecr" => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(4, c))),
            _ => map3(|a: u32, b: u32, c: u32| permute(a, b, mode_selector(5, c))),
        };
        return b.map_instruction(i, exec, word, &[word, word, word]);
    }
    let Operand::Integer { value, .. } = selector else {
        return b.map_instruction(i, map3(permute), word, &[word, word, word]);
    };
    let mut op = Op::new(match *value as u32 & 0xffff {
        0x5410 => map2(|a: u32, b: u32| a & 0xffff | b << 16),
        0x7632 => map2(|a: u32, b: u32| a >> 16 | b & 0xffff_0000),
        0x5432 => map2(|a: u32, b: u32| a >> 16 | b << 16),
        0x7610 => map2(|a: u32, b: u32| a & 0xffff | b & 0xffff_0000),
        0x1032 => map2(|a: u32, _: u32| a.rotate_left(16)),
        _ => constant_permute(),
    });
    op.imm = *value as u64 & 0xffff;
    op.a = b.read(i, &i.operands[1], word)?;
    op.b = b.read(i, &i.operands[2], word)?;
    op.c = NO_SLOT;
    op.d = b.write(i, &i.operands[0], word)?;
    b.emit(op);
    Ok(())
}

/// The body of [`constant_permute`].
struct ConstantPermute;

impl Body for ConstantPermute {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let selector = op.imm as u32;
        // SAFETY: the decoder made the slots for 32-bit words.
        unsafe {
            let sources = [warp.lanes::<u32>(op.a), warp.lanes::<u32>(op.b)];
            let mut result = [0u32; 32];
            for k in 0..4 {
                let nibble = selector >> (4 * k);
                let source = sources[(nibble >> 2 & 1) as usize];
                let (down, up) = (8 * (nibble & 3), 8 * k);
                if nibble & 8 != 0 {
                    for lane in 0..32 {
                        result[lane] |= (0xff * (source[lane] >> (down + 7) & 1)) << up;
                    }
                } else {
                    for lane in 0..32 {
                        result[lane] |= (source[lane] >> down & 0xff) << up;
                    }
                }
            }
            warp.write::<u32>(op.d, &result);
        }
        Flow::Next
    }
}

/// `prmt` with the selector `imm`, the same for all lanes.
fn constant_permute() -> Exec {
    exec::<ConstantPermute>()
}

/// Every opcode named above.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    match i.opcode.as_str() {
        "prmt" => return prmt(i, b),
        "dp4a" | "dp2a" => return dot(i, b),
        _ => {}
    }
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let opcode = i.opcode.as_str();
    let shift = opcode == "bfind" && modifiers.take("shiftamt");
    let bound = if matches!(opcode, "bmsk" | "szext") { modifiers.take_any(&["clamp", "wrap"]) } else { None };
    modifiers.finish(b)?;
    let word = Type::U32;
    match (opcode, ty, bound) {
        ("popc", Type::B32, _) => b.map_instruction(i, map1(u32::count_ones), word, &[ty]),
        ("popc", Type::B64, _) => b.map_instruction(i, map1(u64::count_ones), word, &[ty]),
        ("clz", Type::B32, _) => b.map_instruction(i, map1(u32::leading_zeros), word, &[ty]),
        ("clz", Type::B64, _) => b.map_instruction(i, map1(u64::leading_zeros), word, &[ty]),
        ("brev", Type::B32, _) => b.map_instruction(i, map1(u32::reverse_bits), ty, &[ty]),
        ("brev", Type::B64, _) => b.map_instruction(i, map1(u64::reverse_bits), ty, &[ty]),
        ("bfind", ..) => {
            let exec = bfind(ty, shift).ok_or_else(|| b.unknown(i))?;
            b.map_instruction(i, exec, word, &[ty])
        }
        ("fns", Type::B32, _) => b.map_instruction(i, map3(nth_set), ty, &[ty, word, word]),
        ("bfe", ..) => {
            let exec = match ty {
                Type::U32 => map3(extract32::<false>),
                Type::S32 => map3(extract32::<true>),
                Type::U64 => map3(extract64::<false>),
                Type::S64 => map3(extract64::<true>),
                _ => return Err(b.unknown(i)),
            };
            b.map_instruction(i, exec, ty, &[ty, word, word])
        }
        ("bfi", Type::B32 | Type::B64, _) => {
            let [d, field, base, position, length] = b.operands::<5>(i)?;
            let mut op = Op::new(if ty == Type::B32 { insert32() } else { insert64() });
            op.a = b.read(i, field, ty)?;
            op.b = b.read(i, base, ty)?;
            op.c = b.read(i, position, word)?;
            let length = b.read(i, length, word)?;
            op.d = b.write(i, d, ty)?;
            b.emit_wide(op, vec![length]);
            Ok(())
        }
        ("bmsk", Type::B32, Some(bound)) => {
            let exec = if bound == "clamp" {
                map2(|position: u32, length: u32| {
                    let ones = if length < 32 { (1u32 << length) - 1 } else { u32::MAX };
                    if position < 32 { ones << position } else { 0 }
                })
            } else {
                map2(|position: u32, length: u32| ((1u32 << (length & 31)) - 1) << (position & 31))
            };
            b.map_instruction(i, exec, ty, &[word, word])
        }
        ("szext", Type::U32 | Type::S32, Some(bound)) => {
            // To `n` low bits, the rest zero or the sign; to none: zero.
            let exec = match (bound, ty.is_signed()) {
                ("clamp", false) => map2(|a: u32, n: u32| a & (1u64 << n.min(32)).wrapping_sub(1) as u32),
                ("clamp", true) => map2(|a: i32, n: u32| extend(a, n.min(32))),
                (_, false) => map2(|a: u32, n: u32| a & (1u32 << (n & 31)).wrapping_sub(1)),
                (_, true) => map2(|a: i32, n: u32| extend(a, n & 31)),
            };
            b.map_instruction(i, exec, ty, &[ty, word])
        }
        _ => Err(b.unknown(i)),
    }
}

/// The low `n` bits, with their sign.
#[inline(always)]
fn extend(a: i32, n: u32) -> i32 {
    if n == 0 { 0 } else { a << (32 - n) >> (32 - n) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_where_the_word_ends() {
        assert_eq!(extract32::<false>(0xabcd_1234, 8, 8), 0x12);
        assert_eq!(extract32::<true>(0xabcd_1284, 0, 8), 0xffff_ff84);
        assert_eq!(extract32::<true>(0x8000_0000, 28, 8), 0xffff_fff8);
        assert_eq!(extract32::<false>(0x8000_0000, 28, 8), 8);
        assert_eq!(extract32::<true>(0x8000_0000, 40, 8), u32::MAX);
        assert_eq!(extract32::<true>(u32::MAX, 3, 0), 0);
        assert_eq!(extract64::<true>(1 << 63, 60, 4), !7);
        assert_eq!(field32(4, 8), 0xff0);
        assert_eq!(field32(32, 8), 0);
        assert_eq!(field64(0, 64), u64::MAX);
    }

    #[test]
    fn selectors_of_modes_are_the_manuals() {
        let (a, b) = (0x3322_1100, 0x7766_5544);
        assert_eq!(permute(a, b, 0x7531), 0x7755_3311);
        assert_eq!(permute(a, b | 0x8000_0000, 0xf000), 0xff00_0000);
        assert_eq!(permute(a, b, mode_selector(0, 1)), 0x4433_2211);
        assert_eq!(permute(a, b, mode_selector(1, 1)), 0x6677_0011);
        assert_eq!(permute(a, b, mode_selector(5, 1)), 0x3322_3322);
    }

    #[test]
    fn set_bits_are_found_both_ways() {
        assert_eq!(nth_set(0b1010_1010, 0, 2), 3);
        assert_eq!(nth_set(0b1010_1010, 7, -2), 5);
        assert_eq!(nth_set(0b1010_1010, 3, 0), 3);
        assert_eq!(nth_set(0b1010_1010, 2, 0), u32::MAX);
        assert_eq!(nth_set(0b1010_1010, 0, 5), u32::MAX);
    }

    #[test]
    fn dot_products_take_each_sources_sign() {
        assert_eq!(dp4a::<true, true>(0xff_ff_ff_ff, 0x01_02_03_04, 20), 10);
        assert_eq!(dp4a::<false, true>(0xff_00_00_00, 0xff_00_00_00, 0), (-255i32) as u32);
        assert_eq!(dp2a::<true, false, false>(0x0002_ffff, 0x0000_0305, 0), 1);
        assert_eq!(dp2a::<true, false, true>(0x0002_ffff, 0x0305_0000, 0), 1);
    }
}
