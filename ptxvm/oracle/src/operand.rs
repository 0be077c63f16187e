//! What operands stand for.

use ptxvm::ptx::ast::{Address, AddressBase, Operand, Space, Type};

use crate::{
    error::OracleError,
    machine::{Thread, WARP, World},
    memory::buffer_address,
    modifiers::low,
    program::float_bits,
};

/// The value of a source operand. `ty` says how a floating-point constant is meant.
pub(crate) fn read(
    world: &World<'_>,
    thread: &Thread,
    operand: &Operand,
    ty: Type,
    line: u32,
) -> Result<u128, OracleError> {
    Ok(match operand {
        Operand::Integer { value, .. } => *value as u128,
        Operand::Float(value) => float_bits(*value, ty),
        Operand::Name(name) => named(world, thread, name, line)?,
        Operand::Not(name) => named(world, thread, name, line)? ^ 1,
        Operand::Offset { name, offset } => named(world, thread, name, line)?.wrapping_add(*offset as u128),
        Operand::Vector(parts) => {
            // `{a, b}` as one value: a is the lowest part.
            let width = ty.bits() / parts.len() as u32;
            let mut packed = 0;
            for (index, part) in parts.iter().enumerate() {
                packed |= low(read(world, thread, part, ty, line)?, width) << (index as u32 * width);
            }
            packed
        }
        _ => return Err(OracleError::UnknownName { name: format!("{operand:?}"), line }),
    })
}

/// A register, a special register or a variable's address in its space.
fn named(world: &World<'_>, thread: &Thread, name: &str, line: u32) -> Result<u128, OracleError> {
    if world.program.registers.contains_key(name) {
        return Ok(thread.registers.get(name).copied().unwrap_or(0));
    }
    if let Some(value) = special(thread, name) {
        return Ok(u128::from(value));
    }
    match world.program.symbols.get(name) {
        Some(symbol) => Ok(u128::from(place(world, symbol.space, symbol.offset))),
        None => Err(OracleError::UnknownName { name: name.to_owned(), line }),
    }
}

/// Address of a variable in its own space.
fn place(world: &World<'_>, space: Space, offset: u64) -> u64 {
    // The module's global variables lie in the buffer after those of the caller.
    if space == Space::Global { buffer_address(world.buffers.len() - 1) + offset } else { offset }
}

fn special(thread: &Thread, name: &str) -> Option<u64> {
    let lane = thread.lane() as u64;
    let below = (1u64 << lane) - 1;
    let all = u64::from(u32::MAX);
    Some(match name {
        "%tid.x" => u64::from(thread.index),
        "%ntid.x" => u64::from(thread.threads),
        "%ctaid.x" => u64::from(thread.block),
        "%nctaid.x" => u64::from(thread.blocks),
        "%tid.y" | "%tid.z" | "%ctaid.y" | "%ctaid.z" => 0,
        "%ntid.y" | "%ntid.z" | "%nctaid.y" | "%nctaid.z" => 1,
        "%laneid" => lane,
        "%warpid" => u64::from(thread.index) / WARP as u64,
        "%lanemask_eq" => 1 << lane,
        "%lanemask_lt" => below,
        "%lanemask_le" => below | 1 << lane,
        "%lanemask_gt" => all & !(below | 1 << lane),
        "%lanemask_ge" => all & !below,
        "WARP_SZ" => WARP as u64,
        _ => return None,
    })
}

/// The space and address of `[…]`: a variable brings its space with it where the opcode names none.
pub(crate) fn address(
    world: &World<'_>,
    thread: &Thread,
    address: &Address,
    space: Option<Space>,
    line: u32,
) -> Result<(Option<Space>, u64), OracleError> {
    let (space, base) = match &address.base {
        AddressBase::Absolute(value) => (space, *value),
        AddressBase::Name(name) => match world.program.symbols.get(name) {
            Some(symbol) if !world.program.registers.contains_key(name) => {
                (Some(symbol.space), place(world, symbol.space, symbol.offset))
            }
            _ => (space, named(world, thread, name, line)? as u64),
        },
    };
    Ok((space, base.wrapping_add(address.offset as u64)))
}
