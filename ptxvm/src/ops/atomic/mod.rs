//! `atom` and `red`.

mod cell;
mod run;
#[cfg(test)]
mod tests;

use super::memory::{AccessOp, cache_policy, op_space, register_address, take_hints, take_scope, take_space};
use crate::{
    machine::op::{Exec, Op, Slot},
    monitor::{AccessKind, Ordering, Scope},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};
use run::{Swap, modify, swap};

/// `atom`, `red`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    if m.take("async") {
        return Err(b.error(i, "asynchronous reductions are not modelled"));
    }
    // The manual writes vectors both ways: `add.v2.f32` and `v2.f32.add`.
    let vector_type = &["f32", "f16", "f16x2", "bf16", "bf16x2"];
    let ty = m.take_type().or_else(|| m.take_any(vector_type).and_then(Type::parse)).ok_or_else(|| b.unknown(i))?;
    let order = take_order(&mut m).ok_or_else(|| b.unknown(i))?;
    let space = take_space(&mut m);
    if !matches!(space, None | Some(Space::Global | Space::Shared)) {
        return Err(b.unknown(i));
    }
    const OPERATIONS: &[&str] = &["and", "or", "xor", "exch", "cas", "add", "inc", "dec", "min", "max"];
    let operation = m.take_any(OPERATIONS).ok_or_else(|| b.unknown(i))?;
    let flushes = !m.take("noftz");
    let count = match m.take_any(&["v2", "v4", "v8"]) {
        None => 1,
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
    };
    let hint = take_hints(&mut m);
    m.finish(b)?;
    let half = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
    if half == flushes && ty.is_float() {
        return Err(b.error(i, "`.noftz` belongs to .f16 and .bf16 types, and only to them"));
    }
    if count > 1 && !vector_allowed(ty, operation, count) {
        return Err(b.unknown(i));
    }
    let returns = i.opcode == "atom";
    if !returns && matches!(operation, "exch" | "cas") {
        return Err(b.unknown(i));
    }
    let mut operands = i.operands.as_slice();
    if hint {
        let (policy, others) = operands.split_last().ok_or_else(|| b.unknown(i))?;
        cache_policy(i, b, policy)?;
        operands = others;
    }
    let wanted = usize::from(returns) + 2 + usize::from(operation == "cas");
    if operands.len() != wanted {
        return Err(b.error(i, format!("found {} operands, expected {wanted}", operands.len())));
    }
    let (result, operands) = if returns { (Some(&operands[0]), &operands[1..]) } else { (None, operands) };

    let exec = body(ty, operation).ok_or_else(|| b.unknown(i))?;
    let mut op = Op::new(exec);
    let narrow = register_address(i, b, &operands[0], space, &mut op)?;
    op.y = AccessOp::new(AccessKind::Atomic, order, op_space(space), narrow).0;
    op.x = count;
    let mut slots = registers(i, b, &operands[1], ty, count, false)?;
    if operation == "cas" {
        op.b = slots[0];
        op.c = b.read(i, &operands[2], ty)?;
        slots.clear();
    }
    match result {
        Some(result) => slots.extend(registers(i, b, result, ty, count, true)?),
        None => {
            let sinks: Vec<Slot> = (0..count).map(|_| b.temporary(ty)).collect();
            for &sink in &sinks {
                b.writes(sink);
            }
            slots.extend(sinks);
        }
    }
    // The list: the operands (not for `cas`), then the results.
    b.emit_wide(op, slots);
    Ok(())
}

fn registers(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    ty: Type,
    count: u32,
    results: bool,
) -> Result<Vec<Slot>, CompileError> {
    let elements = b.elements(i, operand)?;
    if elements.len() != count as usize {
        return Err(b.error(i, format!("found {} registers, expected {count}", elements.len())));
    }
    elements.iter().map(|element| if results { b.write(i, element, ty) } else { b.read(i, element, ty) }).collect()
}

fn take_order(m: &mut Modifiers<'_>) -> Option<Ordering> {
    let name = m.take_any(&["relaxed", "acquire", "release", "acq_rel"]);
    let scope = take_scope(m);
    Some(Ordering {
        strong: true,
        acquire: matches!(name, Some("acquire" | "acq_rel")),
        release: matches!(name, Some("release" | "acq_rel")),
        // Without a scope it is the device's.
        scope: scope.unwrap_or(Scope::Device),
    })
}

fn vector_allowed(ty: Type, operation: &str, count: u32) -> bool {
    match ty {
        Type::F32 => operation == "add" && count <= 4,
        Type::F16 | Type::Bf16 => matches!(operation, "add" | "min" | "max"),
        Type::F16x2 | Type::Bf16x2 => matches!(operation, "add" | "min" | "max") && count <= 4,
        _ => false,
    }
}

/// What runs an operation on a type; `None`: there is no such thing.
fn body(ty: Type, operation: &str) -> Option<Exec> {
    use Type::*;
    use half::{bf16, f16};
    Some(match (operation, ty) {
        ("exch", B32 | U32 | S32 | F32) => swap::<u32>(Swap::Exchange),
        ("exch", B64 | U64 | S64 | F64) => swap::<u64>(Swap::Exchange),
        ("exch", B128) => swap::<u128>(Swap::Exchange),
        ("cas", B16 | U16 | S16) => swap::<u16>(Swap::Compare),
        ("cas", B32 | U32 | S32 | F32) => swap::<u32>(Swap::Compare),
        ("cas", B64 | U64 | S64 | F64) => swap::<u64>(Swap::Compare),
        ("cas", B128) => swap::<u128>(Swap::Compare),
        ("and", B32 | U32 | S32) => modify(|a: u32, b: u32, _| a & b),
        ("or", B32 | U32 | S32) => modify(|a: u32, b: u32, _| a | b),
        ("xor", B32 | U32 | S32) => modify(|a: u32, b: u32, _| a ^ b),
        ("and", B64 | U64 | S64) => modify(|a: u64, b: u64, _| a & b),
        ("or", B64 | U64 | S64) => modify(|a: u64, b: u64, _| a | b),
        ("xor", B64 | U64 | S64) => modify(|a: u64, b: u64, _| a ^ b),
        ("add", U32 | S32) => modify(|a: u32, b: u32, _| a.wrapping_add(b)),
        ("add", U64 | S64) => modify(|a: u64, b: u64, _| a.wrapping_add(b)),
        ("inc", U32) => modify(|a: u32, b: u32, _| if a >= b { 0 } else { a + 1 }),
        ("dec", U32) => modify(|a: u32, b: u32, _| if a == 0 || a > b { b } else { a - 1 }),
        ("min", U32) => modify(|a: u32, b: u32, _| a.min(b)),
        ("max", U32) => modify(|a: u32, b: u32, _| a.max(b)),
        ("min", S32) => modify(|a: i32, b: i32, _| a.min(b)),
        ("max", S32) => modify(|a: i32, b: i32, _| a.max(b)),
        ("min", U64) => modify(|a: u64, b: u64, _| a.min(b)),
        ("max", U64) => modify(|a: u64, b: u64, _| a.max(b)),
        ("min", S64) => modify(|a: i64, b: i64, _| a.min(b)),
        ("max", S64) => modify(|a: i64, b: i64, _| a.max(b)),
        // Sums in global memory flush subnormal operands and results; those in shared memory keep them.
        ("add", F32) => modify(|a: f32, b: f32, global| if global { flush(flush(a) + flush(b)) } else { a + b }),
        ("add", F64) => modify(|a: f64, b: f64, _| a + b),
        ("add", F16) => modify(|a: f16, b: f16, _| add16(a, b)),
        ("min", F16) => modify(|a: f16, b: f16, _| pick16(a, b, f32::min)),
        ("max", F16) => modify(|a: f16, b: f16, _| pick16(a, b, f32::max)),
        ("add", Bf16) => modify(|a: bf16, b: bf16, _| add_bf16(a, b)),
        ("min", Bf16) => modify(|a: bf16, b: bf16, _| pick_bf16(a, b, f32::min)),
        ("max", Bf16) => modify(|a: bf16, b: bf16, _| pick_bf16(a, b, f32::max)),
        ("add", F16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both16(a, b, add16)),
        ("min", F16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both16(a, b, |a, b| pick16(a, b, f32::min))),
        ("max", F16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both16(a, b, |a, b| pick16(a, b, f32::max))),
        ("add", Bf16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both_bf16(a, b, add_bf16)),
        ("min", Bf16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both_bf16(a, b, |a, b| pick_bf16(a, b, f32::min))),
        ("max", Bf16x2) => modify(|a: [u16; 2], b: [u16; 2], _| both_bf16(a, b, |a, b| pick_bf16(a, b, f32::max))),
        _ => return None,
    })
}

fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

// Sums of two values of 11 or 8 bits of precision, rounded to 24 and then again, are as if rounded once.
fn add16(a: half::f16, b: half::f16) -> half::f16 {
    let sum = a.to_f32() + b.to_f32();
    if sum.is_nan() { half::f16::from_bits(0x7fff) } else { half::f16::from_f32(sum) }
}

fn add_bf16(a: half::bf16, b: half::bf16) -> half::bf16 {
    let sum = a.to_f32() + b.to_f32();
    if sum.is_nan() { half::bf16::from_bits(0x7fff) } else { half::bf16::from_f32(sum) }
}

/// The smaller or greater of two numbers; of a number and a NaN the number; −0 is smaller than +0.
fn pick(a: f32, b: f32, choose: fn(f32, f32) -> f32) -> Option<bool> {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => None,
        (true, false) => Some(false),
        (false, true) => Some(true),
        _ if a == b => {
            let wants_negative = choose(1.0, 2.0) == 1.0;
            Some(a.is_sign_negative() == wants_negative)
        }
        _ => Some(choose(a, b) == a),
    }
}

fn pick16(a: half::f16, b: half::f16, choose: fn(f32, f32) -> f32) -> half::f16 {
    match pick(a.to_f32(), b.to_f32(), choose) {
        Some(true) => a,
        Some(false) => b,
        None => half::f16::from_bits(0x7fff),
    }
}

fn pick_bf16(a: half::bf16, b: half::bf16, choose: fn(f32, f32) -> f32) -> half::bf16 {
    match pick(a.to_f32(), b.to_f32(), choose) {
        Some(true) => a,
        Some(false) => b,
        None => half::bf16::from_bits(0x7fff),
    }
}

fn both16(a: [u16; 2], b: [u16; 2], f: impl Fn(half::f16, half::f16) -> half::f16) -> [u16; 2] {
    [0, 1].map(|k| f(half::f16::from_bits(a[k]), half::f16::from_bits(b[k])).to_bits())
}

fn both_bf16(a: [u16; 2], b: [u16; 2], f: impl Fn(half::bf16, half::bf16) -> half::bf16) -> [u16; 2] {
    [0, 1].map(|k| f(half::bf16::from_bits(a[k]), half::bf16::from_bits(b[k])).to_bits())
}
