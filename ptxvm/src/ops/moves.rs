//! `mov`: values, addresses, predicates, and vectors packed into or taken out of a wider register.

use super::{
    float::stages::{finish, stage},
    logic,
};
use crate::{
    machine::op::{Exec, Slot, map1, map2},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// `d = a` of `bits`.
pub(crate) fn copy(bits: u32) -> Exec {
    match bits {
        128 => map1(|a: u128| a),
        64 => map1(|a: u64| a),
        // A special register may be wider than what is asked for.
        16 => map1(|a: u16| a),
        8 => map1(|a: u8| a),
        _ => map1(|a: u32| a),
    }
}

/// Puts a low and a high part of `bits` each together.
fn join(bits: u32) -> Exec {
    match bits {
        8 => map2(|low: u8, high: u8| u16::from(low) | u16::from(high) << 8),
        16 => map2(|low: u32, high: u32| low & 0xffff | high << 16),
        32 => map2(|low: u32, high: u32| u64::from(low) | u64::from(high) << 32),
        _ => map2(|low: u64, high: u64| u128::from(low) | u128::from(high) << 64),
    }
}

/// The low or high part, of `bits`, of a value twice as wide.
fn part(bits: u32, high: bool) -> Exec {
    match (bits, high) {
        (8, false) => map1(|a: u16| a as u8),
        (8, true) => map1(|a: u16| (a >> 8) as u8),
        (16, false) => map1(|a: u32| a as u16),
        (16, true) => map1(|a: u32| (a >> 16) as u16),
        (32, false) => map1(|a: u64| a as u32),
        (32, true) => map1(|a: u64| (a >> 32) as u32),
        (_, false) => map1(|a: u128| a as u64),
        (_, true) => map1(|a: u128| (a >> 64) as u64),
    }
}

/// The untyped type of `bits`.
fn untyped(bits: u32) -> Type {
    match bits {
        8 => Type::B8,
        16 => Type::B16,
        32 => Type::B32,
        64 => Type::B64,
        _ => Type::B128,
    }
}

/// What an element of a vector of `count` in a value of `bits` is: 2 or 4 elements of 8 bits or more.
fn element(i: &Instruction, b: &Builder<'_>, bits: u32, count: usize) -> Result<Type, CompileError> {
    match (count, bits) {
        (2, 16..) | (4, 32..) => Ok(untyped(bits / count as u32)),
        _ => Err(b.error(i, format!("{count} elements cannot make {bits} bits"))),
    }
}

fn pack(i: &Instruction, b: &mut Builder<'_>, ty: Type, elements: &[Operand]) -> Result<(), CompileError> {
    let element = element(i, b, ty.bits(), elements.len())?;
    let mut slots = elements.iter().map(|operand| b.read(i, operand, element)).collect::<Result<Vec<Slot>, _>>()?;
    let mut bits = element.bits();
    while let [first, second, third, fourth] = slots[..] {
        let half = untyped(2 * bits);
        slots = vec![stage(b, join(bits), half, &[first, second]), stage(b, join(bits), half, &[third, fourth])];
        bits *= 2;
    }
    finish(b, i, join(bits), &i.operands[0], ty, &slots)
}

fn unpack(i: &Instruction, b: &mut Builder<'_>, ty: Type, elements: &[Operand]) -> Result<(), CompileError> {
    let element = element(i, b, ty.bits(), elements.len())?;
    let whole = b.read(i, &i.operands[1], ty)?;
    let half = ty.bits() / 2;
    // Temporaries first: a destination may be the source.
    let halves = [false, true].map(|high| stage(b, part(half, high), untyped(half), &[whole]));
    let parts = match elements.len() {
        2 => halves.to_vec(),
        _ => halves
            .iter()
            .flat_map(|slot| [(*slot, false), (*slot, true)])
            .map(|(slot, high)| stage(b, part(half / 2, high), element, &[slot]))
            .collect(),
    };
    for (operand, slot) in elements.iter().zip(parts) {
        if !matches!(operand, Operand::Name(name) if name == "_") {
            finish(b, i, copy(element.bits()), operand, element, &[slot])?;
        }
    }
    Ok(())
}

/// Unpacking two different registers none of which is the source needs no temporaries.
fn unpack_pair(i: &Instruction, b: &mut Builder<'_>, ty: Type, elements: &[Operand]) -> Result<(), CompileError> {
    let element = element(i, b, ty.bits(), 2)?;
    let whole = b.read(i, &i.operands[1], ty)?;
    for (operand, high) in elements.iter().zip([false, true]) {
        if !matches!(operand, Operand::Name(name) if name == "_") {
            finish(b, i, part(element.bits(), high), operand, element, &[whole])?;
        }
    }
    Ok(())
}

/// `mov`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    modifiers.finish(b)?;
    let [d, a] = b.operands::<2>(i)?;
    if ty == Type::Pred {
        let (a, negated) = b.read_predicate(i, a)?;
        if negated {
            return Err(b.error(i, "`not.pred` negates a predicate, `mov.pred` does not"));
        }
        let d = b.write_predicate(i, d)?;
        logic::predicate_op(b, logic::copy_predicate(), d, (a, false), (a, false));
        return Ok(());
    }
    let untyped = matches!(ty, Type::B16 | Type::B32 | Type::B64 | Type::B128);
    let valid = untyped
        || matches!(ty, Type::U16 | Type::U32 | Type::U64 | Type::S16 | Type::S32 | Type::S64 | Type::F32 | Type::F64);
    if !valid {
        return Err(b.unknown(i));
    }
    let (target, source) = (b.elements(i, d)?, vector_source(i, b, a)?);
    match (target.len(), source.len()) {
        (1, 1) => {}
        (1, _) if untyped => return pack(i, b, ty, &source),
        (2, 1) if untyped && ty.bits() < 128 => return unpack_pair(i, b, ty, &target),
        (_, 1) if untyped => return unpack(i, b, ty, &target),
        _ => return Err(b.unknown(i)),
    }
    let (slot, found) = b.read_any(i, a, ty)?;
    let exec = match (found.bits(), ty.bits()) {
        (64, 32) if b.register_type(a).is_none() => map1(|address: u64| address as u32),
        (found, wanted) if found == wanted => copy(wanted),
        _ => return Err(b.error(i, format!("the source is .{found}, expected {} bits for .{ty}", ty.bits()))),
    };
    finish(b, i, exec, d, ty, &[slot])
}

/// The elements of a source; what is no vector is one element.
fn vector_source(i: &Instruction, b: &Builder<'_>, operand: &Operand) -> Result<Vec<Operand>, CompileError> {
    match operand {
        Operand::Vector(_) | Operand::Name(_) => b.elements(i, operand),
        other => Ok(vec![other.clone()]),
    }
}
