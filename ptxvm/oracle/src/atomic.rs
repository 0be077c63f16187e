//! `atom` and `red`.

use ptxvm::ptx::ast::{Instruction, Operand, Type};

use crate::{
    error::OracleError,
    exact::Rounding,
    execute::named_space,
    floating::smaller_or_larger,
    format::Format,
    machine::{Thread, World, unknown},
    modifiers::{Modifiers, by_parts, integer, low},
    operand,
};

pub(crate) fn execute(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let line = instruction.line;
    let (target, rest) = match (instruction.opcode.as_str(), instruction.operands.as_slice()) {
        ("atom", [target, rest @ ..]) => (Some(target), rest),
        ("red", rest) => (None, rest),
        _ => return Err(unknown(instruction)),
    };
    let [Operand::Address(place), sources @ ..] = rest else { return Err(unknown(instruction)) };
    let ty = modifiers.ty().ok_or_else(|| unknown(instruction))?;
    let (space, address) = operand::address(world, thread, place, named_space(modifiers), line)?;
    let size = ty.bytes() as usize;
    // A vector is that many atomics on neighbours; scalars are vectors of one.
    let columns: Vec<&[Operand]> = sources
        .iter()
        .map(|source| match source {
            Operand::Vector(parts) if ty != Type::B128 => parts.as_slice(),
            _ => std::slice::from_ref(source),
        })
        .collect();
    let count = columns.first().map_or(0, |parts| parts.len());
    let mut old_values = Vec::with_capacity(count);
    let mut local = std::mem::take(&mut thread.local);
    for index in 0..count {
        let mut arguments = Vec::new();
        for parts in &columns {
            let part = parts.get(index).ok_or_else(|| unknown(instruction))?;
            arguments.push(operand::read(world, thread, part, ty, line)?);
        }
        let at = address + (index * size) as u64;
        let old = world.memory(&mut local).load(space, at, size, line)?;
        let new = combine(modifiers, ty, old, &arguments).ok_or_else(|| unknown(instruction))?;
        world.memory(&mut local).store(space, at, size, new, line)?;
        old_values.push(old);
    }
    thread.local = local;
    if let Some(target) = target {
        let values = match (target, ty) {
            (Operand::Vector(_), Type::B128) => vec![low(old_values[0], 64), old_values[0] >> 64],
            _ => old_values,
        };
        thread.write(world.program, target, &values);
    }
    Ok(())
}

/// The value an atomic leaves behind.
fn combine(modifiers: &Modifiers, ty: Type, old: u128, arguments: &[u128]) -> Option<u128> {
    let operation = modifiers.first_of(&["and", "or", "xor", "cas", "exch", "add", "inc", "dec", "min", "max"])?;
    let b = low(*arguments.first()?, ty.bits());
    if let Some((format, parts)) = Format::of(ty) {
        return Some(by_parts(parts, format.bits(), &[old, b], |values| {
            let (r, s) = (format.decode(values[0]), format.decode(values[1]));
            match operation {
                "add" => format.encode(&r.plus(&s, Rounding::NearestEven), Rounding::NearestEven),
                "min" | "max" => smaller_or_larger(operation == "min", false, format, values[0], values[1]),
                "exch" => values[1],
                _ => values[0],
            }
        }));
    }
    let (r, s) = (integer(old, ty), integer(b, ty));
    Some(match (operation, arguments) {
        ("and", _) => old & b,
        ("or", _) => old | b,
        ("xor", _) => old ^ b,
        ("exch", _) => b,
        ("cas", &[_, c]) => {
            if old == b {
                low(c, ty.bits())
            } else {
                old
            }
        }
        ("add", _) => low((r + s) as u128, ty.bits()),
        ("inc", _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        ("dec", _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        ("min", _) => low(r.min(s) as u128, ty.bits()),
        ("max", _) => low(r.max(s) as u128, ty.bits()),
        _ => return None,
    })
}
