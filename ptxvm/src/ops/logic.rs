//! `and or xor not cnot lop3 shl shr shf`, over words and predicates.

use crate::{
    machine::{
        op::{Body, Exec, Flow, Op, Slot, exec, free, map1, map2_constant, map3},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// A predicate operation: `x` bits 0 and 1 negate the sources.
macro_rules! predicates {
    ($a:ident, $b:ident => $value:expr) => {
        free(|warp, op| {
            // SAFETY: the decoder made the slots for predicates.
            unsafe {
                let $a = warp.predicate(op.a) ^ (op.x & 1).wrapping_neg();
                let $b = warp.predicate(op.b) ^ (op.x >> 1 & 1).wrapping_neg();
                warp.write_predicate(op.d, $value);
            }
            Flow::Next
        })
    };
}

/// Appends a predicate operation of two sources, each with whether it is negated.
pub(crate) fn predicate_op(b: &mut Builder<'_>, exec: Exec, d: Slot, first: (Slot, bool), second: (Slot, bool)) {
    let mut op = Op::new(exec);
    op.a = b.reads(first.0);
    op.b = b.reads(second.0);
    op.d = b.writes(d);
    op.x = u32::from(first.1) | u32::from(second.1) << 1;
    b.emit(op);
}

/// `d = a` of predicates; the second source is not looked at.
pub(crate) fn copy_predicate() -> Exec {
    predicates!(a, _b => a)
}

/// `and`, `or` or `xor` of two predicates.
pub(crate) fn combine_predicates(name: &str) -> Option<Exec> {
    Some(match name {
        "and" => predicates!(a, b => a & b),
        "or" => predicates!(a, b => a | b),
        "xor" => predicates!(a, b => a ^ b),
        _ => return None,
    })
}

fn decode_predicates(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    if i.opcode == "not" {
        let [d, a] = b.operands::<2>(i)?;
        let (a, negated) = b.read_predicate(i, a)?;
        let d = b.write_predicate(i, d)?;
        predicate_op(b, copy_predicate(), d, (a, !negated), (a, false));
        return Ok(());
    }
    let exec = combine_predicates(&i.opcode).ok_or_else(|| b.unknown(i))?;
    let [d, first, second] = b.operands::<3>(i)?;
    let first = b.read_predicate(i, first)?;
    let second = b.read_predicate(i, second)?;
    let d = b.write_predicate(i, d)?;
    predicate_op(b, exec, d, first, second);
    Ok(())
}

/// The body of [`any_table`].
struct AnyTable;

impl Body for AnyTable {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        let bit = |k: u32| (op.imm as u32 >> k & 1).wrapping_neg();
        let table: [u32; 8] = [bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7)];
        // Selected by c first: where c is set the second of each pair.
        let differs = [table[0] ^ table[1], table[2] ^ table[3], table[4] ^ table[5], table[6] ^ table[7]];
        // SAFETY: the decoder made the slots for 32-bit words.
        unsafe {
            let (a, b, c) = (warp.lanes::<u32>(op.a), warp.lanes::<u32>(op.b), warp.lanes::<u32>(op.c));
            let mut result = [0; 32];
            for lane in 0..32 {
                let (a, b, c) = (a[lane], b[lane], c[lane]);
                let by_c = [
                    table[0] ^ c & differs[0],
                    table[2] ^ c & differs[1],
                    table[4] ^ c & differs[2],
                    table[6] ^ c & differs[3],
                ];
                let by_b = [by_c[0] ^ b & (by_c[0] ^ by_c[1]), by_c[2] ^ b & (by_c[2] ^ by_c[3])];
                result[lane] = by_b[0] ^ a & (by_b[0] ^ by_b[1]);
            }
            warp.write::<u32>(op.d, &result);
        }
        Flow::Next
    }
}

/// `lop3` by the table of `imm`: eight bits, chosen by the three sources' bits.
fn any_table() -> Exec {
    exec::<AnyTable>()
}

fn table(lut: u8) -> Exec {
    match lut {
        0x80 => map3(|a: u32, b: u32, c: u32| a & b & c),
        0xfe => map3(|a: u32, b: u32, c: u32| a | b | c),
        0x96 => map3(|a: u32, b: u32, c: u32| a ^ b ^ c),
        0xca => map3(|a: u32, b: u32, c: u32| a & b | !a & c),
        0xe8 => map3(|a: u32, b: u32, c: u32| a & b | (a | b) & c),
        0xf8 => map3(|a: u32, b: u32, c: u32| a | b & c),
        0xea => map3(|a: u32, b: u32, c: u32| a & b | c),
        _ => any_table(),
    }
}

fn lop3(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let word = Type::B32;
    if modifiers.take_type() != Some(word) {
        return Err(b.unknown(i));
    }
    let with = modifiers.take_any(&["and", "or"]);
    modifiers.finish(b)?;
    let expected = if with.is_some() { 6 } else { 5 };
    if i.operands.len() != expected {
        return Err(b.error(i, format!("found {} operands, expected {expected}", i.operands.len())));
    }
    let lut = match &i.operands[4] {
        Operand::Integer { value, .. } if (0..256).contains(value) => *value as u8,
        _ => return Err(b.error(i, "the table must be a constant from 0 to 255")),
    };
    let mut op = Op::new(table(lut));
    op.imm = lut.into();
    op.a = b.read(i, &i.operands[1], word)?;
    op.b = b.read(i, &i.operands[2], word)?;
    op.c = b.read(i, &i.operands[3], word)?;
    let Some(with) = with else {
        op.d = b.write(i, &i.operands[0], word)?;
        b.emit(op);
        return Ok(());
    };
    let Operand::Pair(d, p) = &i.operands[0] else {
        return Err(b.error(i, "two destinations `d|p` are expected"));
    };
    // The result goes to a temporary, so that neither destination is written before all sources have been read.
    let result = b.temporary(word);
    op.d = b.writes(result);
    let q = b.read_predicate(i, &i.operands[5])?;
    b.emit(op);
    let mut last = Op::new(match with {
        "and" => nonzero_with(|nonzero, q| nonzero & q),
        _ => nonzero_with(|nonzero, q| nonzero | q),
    });
    last.a = b.reads(result);
    last.b = b.reads(q.0);
    last.x = u32::from(q.1);
    last.d = b.write(i, d, word)?;
    let p = b.write_predicate(i, p)?;
    b.emit_wide(last, vec![p]);
    Ok(())
}

/// `d = a`, and `wide[0]` from whether it is not zero and from predicate `b`, negated by `x`.
fn nonzero_with<F: Fn(u32, u32) -> u32 + Copy>(_: F) -> Exec {
    free(|warp, op| {
        let combine = crate::machine::op::conjure::<F>();
        // SAFETY: the decoder made `a` and `d` for words, `b` and `wide[0]` for predicates.
        unsafe {
            let q = warp.predicate(op.b) ^ op.x.wrapping_neg();
            let value = *warp.lanes::<u32>(op.a);
            let mut nonzero = 0u32;
            for (lane, word) in value.iter().enumerate() {
                nonzero |= u32::from(*word != 0) << lane;
            }
            warp.write::<u32>(op.d, &value);
            let p = warp.wide(op)[0];
            warp.write_predicate(p, combine(nonzero, q));
        }
        Flow::Next
    })
}

/// `hi:lo` moved left, the upper word.
#[inline(always)]
fn funnel_left(low: u32, high: u32, count: u32) -> u32 {
    if count == 0 { high } else { high << (count & 31) | low >> ((32 - count) & 31) }
}

/// `hi:lo` moved right, the lower word.
#[inline(always)]
fn funnel_right(low: u32, high: u32, count: u32) -> u32 {
    if count == 0 { low } else { low >> (count & 31) | high << ((32 - count) & 31) }
}

fn funnel(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type();
    let side = modifiers.take_any(&["l", "r"]);
    let bound = modifiers.take_any(&["clamp", "wrap"]);
    modifiers.finish(b)?;
    let exec = match (ty, side, bound) {
        (Some(Type::B32), Some("l"), Some("wrap")) => map3(|a: u32, b: u32, c: u32| funnel_left(a, b, c & 31)),
        (Some(Type::B32), Some("r"), Some("wrap")) => map3(|a: u32, b: u32, c: u32| funnel_right(a, b, c & 31)),
        (Some(Type::B32), Some("l"), Some("clamp")) => {
            map3(|a: u32, b: u32, c: u32| if c > 31 { a } else { funnel_left(a, b, c) })
        }
        (Some(Type::B32), Some("r"), Some("clamp")) => {
            map3(|a: u32, b: u32, c: u32| if c > 31 { b } else { funnel_right(a, b, c) })
        }
        _ => return Err(b.unknown(i)),
    };
    b.map_instruction(i, exec, Type::B32, &[Type::B32, Type::B32, Type::U32])
}

fn shift(opcode: &str, ty: Type) -> Option<Exec> {
    Some(match (opcode, ty) {
        ("shl", Type::B16) => map2_constant(|a: u16, n: u32| if n > 15 { 0 } else { a << n }),
        ("shl", Type::B32) => map2_constant(|a: u32, n: u32| if n > 31 { 0 } else { a << n }),
        ("shl", Type::B64) => map2_constant(|a: u64, n: u32| if n > 63 { 0 } else { a << n }),
        ("shr", Type::B16 | Type::U16) => map2_constant(|a: u16, n: u32| if n > 15 { 0 } else { a >> n }),
        ("shr", Type::B32 | Type::U32) => map2_constant(|a: u32, n: u32| if n > 31 { 0 } else { a >> n }),
        ("shr", Type::B64 | Type::U64) => map2_constant(|a: u64, n: u32| if n > 63 { 0 } else { a >> n }),
        ("shr", Type::S16) => map2_constant(|a: i16, n: u32| a >> n.min(15)),
        ("shr", Type::S32) => map2_constant(|a: i32, n: u32| a >> n.min(31)),
        ("shr", Type::S64) => map2_constant(|a: i64, n: u32| a >> n.min(63)),
        _ => return None,
    })
}

/// Every opcode named above.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    match i.opcode.as_str() {
        "lop3" => return lop3(i, b),
        "shf" => return funnel(i, b),
        _ => {}
    }
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    modifiers.finish(b)?;
    if ty == Type::Pred {
        return decode_predicates(i, b);
    }
    if let Some(exec) = shift(&i.opcode, ty) {
        return b.map_instruction(i, exec, ty, &[ty, Type::U32]);
    }
    let wide = match ty {
        Type::B16 | Type::B32 => false,
        Type::B64 => true,
        _ => return Err(b.unknown(i)),
    };
    match (i.opcode.as_str(), wide) {
        ("and", false) => b.map_instruction(i, map2_constant(|a: u32, b: u32| a & b), ty, &[ty, ty]),
        ("and", true) => b.map_instruction(i, map2_constant(|a: u64, b: u64| a & b), ty, &[ty, ty]),
        ("or", false) => b.map_instruction(i, map2_constant(|a: u32, b: u32| a | b), ty, &[ty, ty]),
        ("or", true) => b.map_instruction(i, map2_constant(|a: u64, b: u64| a | b), ty, &[ty, ty]),
        ("xor", false) => b.map_instruction(i, map2_constant(|a: u32, b: u32| a ^ b), ty, &[ty, ty]),
        ("xor", true) => b.map_instruction(i, map2_constant(|a: u64, b: u64| a ^ b), ty, &[ty, ty]),
        ("not", false) if ty == Type::B16 => b.map_instruction(i, map1(|a: u16| !a), ty, &[ty]),
        ("not", false) => b.map_instruction(i, map1(|a: u32| !a), ty, &[ty]),
        ("not", true) => b.map_instruction(i, map1(|a: u64| !a), ty, &[ty]),
        ("cnot", false) => b.map_instruction(i, map1(|a: u32| u32::from(a == 0)), ty, &[ty]),
        ("cnot", true) => b.map_instruction(i, map1(|a: u64| u64::from(a == 0)), ty, &[ty]),
        _ => Err(b.unknown(i)),
    }
}
