//! `setp` and `set`: all comparisons, alone or combined with a predicate.

use super::{
    float::{
        refuse_integers,
        rounding::{Bf16, F16, flush},
        stages::{stage, stage_if},
    },
    half::lanes::to_singles,
    logic,
};
use crate::{
    machine::{
        lanes::Stored,
        op::{Exec, Flow, Op, Slot, free, map1, test2, test2_constant},
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// Comparisons by name; those of greater are those of less with the sources exchanged.
const NAMES: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

/// The comparison and whether the sources are exchanged.
fn ordered(name: &str) -> (&str, bool) {
    match name {
        "gt" => ("lt", true),
        "ge" => ("le", true),
        "hi" => ("lo", true),
        "hs" => ("ls", true),
        "gtu" => ("ltu", true),
        "geu" => ("leu", true),
        other => (other, false),
    }
}

fn integers(name: &str, ty: Type) -> Option<Exec> {
    Some(match (name, ty) {
        ("eq", _) if ty.bits() == 64 => test2_constant(|a: u64, b: u64| a == b),
        ("ne", _) if ty.bits() == 64 => test2_constant(|a: u64, b: u64| a != b),
        ("eq", _) => test2_constant(|a: u32, b: u32| a == b),
        ("ne", _) => test2_constant(|a: u32, b: u32| a != b),
        ("lt", Type::S16) => test2_constant(|a: i16, b: i16| a < b),
        ("lt", Type::S32) => test2_constant(|a: i32, b: i32| a < b),
        ("lt", Type::S64) => test2_constant(|a: i64, b: i64| a < b),
        ("le", Type::S16) => test2_constant(|a: i16, b: i16| a <= b),
        ("le", Type::S32) => test2_constant(|a: i32, b: i32| a <= b),
        ("le", Type::S64) => test2_constant(|a: i64, b: i64| a <= b),
        ("lt" | "lo", Type::U64) => test2_constant(|a: u64, b: u64| a < b),
        ("le" | "ls", Type::U64) => test2_constant(|a: u64, b: u64| a <= b),
        ("lt" | "lo", Type::U16 | Type::U32) => test2_constant(|a: u32, b: u32| a < b),
        ("le" | "ls", Type::U16 | Type::U32) => test2_constant(|a: u32, b: u32| a <= b),
        _ => return None,
    })
}

macro_rules! floats {
    ($name:expr, $t:ty, $prepare:expr) => {
        match $name {
            "eq" => test2(|a: $t, b: $t| $prepare(a) == $prepare(b)),
            "ne" => test2(|a: $t, b: $t| ($prepare(a) < $prepare(b)) | ($prepare(a) > $prepare(b))),
            "lt" => test2(|a: $t, b: $t| $prepare(a) < $prepare(b)),
            "le" => test2(|a: $t, b: $t| $prepare(a) <= $prepare(b)),
            "equ" => test2(|a: $t, b: $t| !(($prepare(a) < $prepare(b)) | ($prepare(a) > $prepare(b)))),
            "neu" => test2(|a: $t, b: $t| $prepare(a) != $prepare(b)),
            "ltu" => test2(|a: $t, b: $t| ($prepare(a) < $prepare(b)) | a.is_nan() | b.is_nan()),
            "leu" => test2(|a: $t, b: $t| ($prepare(a) <= $prepare(b)) | a.is_nan() | b.is_nan()),
            "num" => test2(|a: $t, b: $t| !(a.is_nan() | b.is_nan())),
            "nan" => test2(|a: $t, b: $t| a.is_nan() | b.is_nan()),
            _ => return None,
        }
    };
}

fn singles(name: &str, ftz: bool) -> Option<Exec> {
    Some(if ftz { floats!(name, f32, flush) } else { floats!(name, f32, std::convert::identity) })
}

fn doubles(name: &str) -> Option<Exec> {
    Some(floats!(name, f64, std::convert::identity))
}

/// What is compared and how, taken from the modifiers.
struct Comparison<'i> {
    name: &'i str,
    combine: Option<&'i str>,
    ftz: bool,
    ty: Type,
}

impl<'i> Comparison<'i> {
    /// Takes the source type (last) and, after `take_destination`, the rest.
    fn take(i: &Instruction, b: &Builder<'_>, modifiers: &mut Modifiers<'i>, ty: Type) -> Result<Self, CompileError> {
        let name = modifiers.take_any(&NAMES).ok_or_else(|| b.error(i, "a comparison operator is required"))?;
        let combine = modifiers.take_any(&["and", "or", "xor"]);
        let ftz = matches!(ty, Type::F32 | Type::F16 | Type::F16x2) && modifiers.take("ftz");
        Ok(Self { name, combine, ftz, ty })
    }

    fn is_packed(&self) -> bool {
        matches!(self.ty, Type::F16x2 | Type::Bf16x2)
    }

    /// Appends the comparisons: one predicate, or for packed types that of the low halves and that of the high ones.
    fn compare(
        &self,
        i: &Instruction,
        b: &mut Builder<'_>,
        operands: [&Operand; 2],
        target: Option<Slot>,
    ) -> Result<Vec<Slot>, CompileError> {
        let (name, exchanged) = ordered(self.name);
        let [first, second] = operands;
        let first = b.read(i, first, self.ty)?;
        let second = b.read(i, second, self.ty)?;
        let [first, second] = if exchanged { [second, first] } else { [first, second] };
        let exec = match self.ty {
            Type::F32 => singles(name, self.ftz),
            Type::F64 => doubles(name),
            Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 => singles(name, false),
            Type::B16 | Type::B32 | Type::B64 if !matches!(name, "eq" | "ne") => None,
            ty => integers(name, ty),
        }
        .ok_or_else(|| b.error(i, format!("`.{}` does not compare .{}", self.name, self.ty)))?;
        let compare = |b: &mut Builder<'_>, sources: [Slot; 2]| match target {
            Some(target) => {
                b.reads(sources[0]);
                b.reads(sources[1]);
                b.writes(target);
                b.emit_map(exec, target, &sources);
                target
            }
            None => stage(b, exec, Type::Pred, &sources),
        };
        let Some(widen) = self.widen() else {
            return Ok(vec![compare(b, [first, second])]);
        };
        let mut result = Vec::with_capacity(2);
        for exec in widen {
            let wide = [first, second].map(|slot| {
                let wide = stage(b, exec, Type::F32, &[slot]);
                stage_if(b, self.ftz, || map1(flush_f16), Type::F32, wide)
            });
            result.push(compare(b, wide));
        }
        Ok(result)
    }

    /// How halves become singles: the low ones, and the high ones of packed types.
    fn widen(&self) -> Option<Vec<Exec>> {
        Some(match self.ty {
            Type::F16 => vec![to_singles::<F16>(false)],
            Type::Bf16 => vec![to_singles::<Bf16>(false)],
            Type::F16x2 => vec![to_singles::<F16>(false), to_singles::<F16>(true)],
            Type::Bf16x2 => vec![to_singles::<Bf16>(false), to_singles::<Bf16>(true)],
            _ => return None,
        })
    }
}

/// What a subnormal of `.f16` is as a single: a zero.
#[inline(always)]
fn flush_f16(x: f32) -> f32 {
    if x.abs() < 6.103_515_6e-5 { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

fn is_comparable(ty: Type) -> bool {
    matches!(
        ty,
        Type::B16 | Type::B32 | Type::B64 | Type::U16 | Type::U32 | Type::U64 | Type::S16 | Type::S32 | Type::S64
    ) || matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::F32 | Type::F64)
}

/// `d = a op c`, `wide[0] = a2 op c` for predicates; `x`: bit 0 negates `c`, bits 1 and 2 tell the operation (0: none, 1:
/// and, 2: or, 3: xor), bit 3: `a2` is `a` negated, else `b`.
fn two_predicates() -> Exec {
    free(|warp, op| {
        // SAFETY: the decoder made all slots for predicates.
        unsafe {
            let first = warp.predicate(op.a);
            let second = if op.x >> 3 & 1 != 0 { !first } else { warp.predicate(op.b) };
            let c = warp.predicate(op.c) ^ (op.x & 1).wrapping_neg();
            let combine = |value: u32| match op.x >> 1 & 3 {
                0 => value,
                1 => value & c,
                2 => value | c,
                _ => value ^ c,
            };
            let other = warp.wide(op)[0];
            warp.write_predicate(op.d, combine(first));
            warp.write_predicate(other, combine(second));
        }
        Flow::Next
    })
}

fn setp(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().filter(|ty| is_comparable(*ty)).ok_or_else(|| b.unknown(i))?;
    let comparison = Comparison::take(i, b, &mut modifiers, ty)?;
    modifiers.finish(b)?;
    let expected = if comparison.combine.is_some() { 4 } else { 3 };
    if i.operands.len() != expected {
        return Err(b.error(i, format!("found {} operands, expected {expected}", i.operands.len())));
    }
    let sources = [&i.operands[1], &i.operands[2]];
    let (first, second) = match &i.operands[0] {
        Operand::Pair(first, second) => (first.as_ref(), Some(second.as_ref())),
        single => (single, None),
    };
    if second.is_some() && matches!(ty, Type::F16 | Type::Bf16) {
        return Err(b.error(i, "one destination predicate is expected"));
    }
    let c = match i.operands.get(3) {
        Some(operand) => Some(b.read_predicate(i, operand)?),
        None => None,
    };
    if second.is_none() && c.is_none() && comparison.widen().is_none() {
        // The common case is one operation. The write is noted with it.
        let d = b.write_predicate(i, first)?;
        comparison.compare(i, b, sources, Some(d))?;
        return Ok(());
    }
    let results = comparison.compare(i, b, sources, None)?;
    let c = c.map(|(slot, negated)| (b.reads(slot), negated));
    let operation = match comparison.combine {
        None => 0,
        Some("and") => 1,
        Some("or") => 2,
        Some(_) => 3,
    };
    if let (None, Some(name), Some(c)) = (second, comparison.combine, c) {
        let exec = logic::combine_predicates(name).ok_or_else(|| b.unknown(i))?;
        let d = b.write_predicate(i, first)?;
        logic::predicate_op(b, exec, d, (results[0], false), c);
        return Ok(());
    }
    let Some(second) = second else {
        let d = b.write_predicate(i, first)?;
        logic::predicate_op(b, logic::copy_predicate(), d, (results[0], false), (results[0], false));
        return Ok(());
    };
    let mut op = Op::new(two_predicates());
    op.a = b.reads(results[0]);
    op.b = b.reads(*results.last().unwrap_or(&results[0]));
    op.c = c.map_or(op.a, |(slot, _)| slot);
    op.x = u32::from(c.is_some_and(|(_, negated)| negated)) | operation << 1 | u32::from(!comparison.is_packed()) << 3;
    op.d = b.write_predicate(i, first)?;
    let other = b.write_predicate(i, second)?;
    b.emit_wide(op, vec![other]);
    Ok(())
}

/// `d = c ? x : 0`, `c` a predicate `a`; with a second one `b` (if `imm` is 1) each decides its half of the word.
fn constants() -> Exec {
    free(|warp, op| {
        // SAFETY: the decoder made `a` and `b` for predicates and `d` for words.
        unsafe {
            let first = warp.predicate(op.a);
            let second = if op.imm != 0 { warp.predicate(op.b) } else { first };
            let (mut result, mut high) = ([0; 32], [0; 32]);
            u32::blend(&mut result, &[op.x; 32], first);
            u32::blend(&mut high, &[op.y; 32], second);
            for lane in 0..32 {
                result[lane] |= high[lane];
            }
            warp.write::<u32>(op.d, &result);
        }
        Flow::Next
    })
}

fn set(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().filter(|ty| is_comparable(*ty)).ok_or_else(|| b.unknown(i))?;
    let to = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let comparison = Comparison::take(i, b, &mut modifiers, ty)?;
    modifiers.finish(b)?;
    let half = matches!(ty, Type::F16 | Type::Bf16);
    // What true is: in the low half, and in the high one.
    let (low, high) = match to {
        Type::U32 | Type::S32 if comparison.is_packed() => (0xffff, 0xffff_0000),
        Type::U32 | Type::S32 => (u32::MAX, 0),
        Type::F32 if !comparison.is_packed() && !half => (0x3f80_0000, 0),
        Type::U16 | Type::S16 if half => (0xffff, 0),
        Type::F16 if !comparison.is_packed() => (0x3c00, 0),
        Type::Bf16 if !comparison.is_packed() => (0x3f80, 0),
        Type::F16x2 if ty == Type::F16x2 => (0x3c00, 0x3c00_0000),
        Type::Bf16x2 if ty == Type::Bf16x2 => (0x3f80, 0x3f80_0000),
        _ => return Err(b.unknown(i)),
    };
    let expected = if comparison.combine.is_some() { 4 } else { 3 };
    if i.operands.len() != expected {
        return Err(b.error(i, format!("found {} operands, expected {expected}", i.operands.len())));
    }
    let c = match i.operands.get(3) {
        Some(operand) => Some(b.read_predicate(i, operand)?),
        None => None,
    };
    let mut results = comparison.compare(i, b, [&i.operands[1], &i.operands[2]], None)?;
    if let (Some(name), Some(c)) = (comparison.combine, c) {
        for slot in &mut results {
            let exec = logic::combine_predicates(name).ok_or_else(|| b.unknown(i))?;
            let combined = b.temporary(Type::Pred);
            logic::predicate_op(b, exec, combined, (*slot, false), c);
            *slot = combined;
        }
    }
    let mut op = Op::new(constants());
    op.a = b.reads(results[0]);
    op.b = b.reads(*results.last().unwrap_or(&results[0]));
    op.imm = (results.len() - 1) as u64;
    (op.x, op.y) = (low, high);
    op.d = b.write(i, &i.operands[0], to)?;
    b.emit(op);
    Ok(())
}

/// `setp set`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    if i.modifiers.last().is_some_and(|ty| ty == "f32" || ty == "f64") {
        refuse_integers_of_comparison(i, b)?;
    }
    if i.opcode == "setp" { setp(i, b) } else { set(i, b) }
}

/// The combined predicate may be written as a whole number, the compared sources may not.
fn refuse_integers_of_comparison(i: &Instruction, b: &Builder<'_>) -> Result<(), CompileError> {
    let mut compared = i.clone();
    compared.operands.truncate(3);
    refuse_integers(&compared, b)
}
