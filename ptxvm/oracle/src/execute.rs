//! Instructions that one thread executes alone.

use ptxvm::ptx::ast::{Instruction, Operand, Space, Type};

use crate::{
    atomic, bits, compare, convert,
    error::OracleError,
    floating, integer,
    machine::{State, Thread, World, unknown},
    memory::{space_of, window},
    modifiers::{Modifiers, low, signed},
    operand,
    program::Step,
};

pub(crate) fn execute(world: &mut World<'_>, thread: &mut Thread, step: &Step) -> Result<(), OracleError> {
    let Step { instruction, modifiers } = step;
    match instruction.opcode.as_str() {
        "bra" => {
            let Some(Operand::Name(label)) = instruction.operands.first() else { return Err(unknown(instruction)) };
            thread.pc = label_of(world, label, instruction)?;
            Ok(())
        }
        "brx" => branch_by_index(world, thread, instruction),
        "ret" | "exit" => {
            thread.state = State::Exited;
            Ok(())
        }
        "membar" | "fence" | "prefetch" | "prefetchu" | "nanosleep" | "pmevent" => Ok(()),
        "mov" => transfer(world, thread, instruction, modifiers),
        "ld" | "ldu" => load(world, thread, instruction, modifiers),
        "st" => store(world, thread, instruction, modifiers),
        "atom" | "red" => atomic::execute(world, thread, instruction, modifiers),
        "cvta" => convert_address(world, thread, instruction, modifiers),
        "isspacep" => {
            let [target, source] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
            let address = operand::read(world, thread, source, Type::B64, instruction.line)? as u64;
            let inside = named_space(modifiers) == Some(space_of(address));
            thread.write(world.program, target, &[u128::from(inside)]);
            Ok(())
        }
        _ => compute(world, thread, instruction, modifiers),
    }
}

/// Registers in, registers out.
fn compute(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let (target, sources) = instruction.operands.split_first().ok_or_else(|| unknown(instruction))?;
    let opcode = instruction.opcode.as_str();
    let mut arguments = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        let ty = match (opcode, modifiers.types.as_slice()) {
            ("slct", &[value, _]) if index < 2 => value,
            ("add" | "sub" | "fma", &[wide, _]) if index + 1 == sources.len() => wide,
            _ => modifiers.ty().unwrap_or(Type::B32),
        };
        arguments.push(operand::read(world, thread, source, ty, instruction.line)?);
    }
    let results = evaluate(opcode, modifiers, &arguments, &mut thread.carry).ok_or_else(|| unknown(instruction))?;
    thread.write(world.program, target, &results);
    Ok(())
}

fn evaluate(opcode: &str, modifiers: &Modifiers, arguments: &[u128], carry: &mut bool) -> Option<Vec<u128>> {
    let one = |result: Option<u128>| result.map(|result| vec![result]);
    match opcode {
        "addc" | "subc" | "madc" => one(integer::extended(opcode, modifiers, arguments, carry)),
        "add" | "sub" | "mad" if modifiers.has("cc") => one(integer::extended(opcode, modifiers, arguments, carry)),
        "dp4a" | "dp2a" => one(integer::dot_product(opcode, modifiers, arguments)),
        "set" | "setp" | "selp" | "slct" => compare::evaluate(opcode, modifiers, arguments),
        "testp" => {
            let &[a] = arguments else { return None };
            one(floating::test_property(modifiers, a).map(u128::from))
        }
        "cvt" => one(convert::evaluate(modifiers, arguments)),
        _ if floating::is_floating(modifiers) => one(floating::evaluate(opcode, modifiers, arguments)),
        _ => bits::evaluate(opcode, modifiers, arguments)
            .or_else(|| one(integer::evaluate(opcode, modifiers, arguments))),
    }
}

fn label_of(world: &World<'_>, label: &str, instruction: &Instruction) -> Result<usize, OracleError> {
    let known = world.program.labels.get(label).copied();
    known.ok_or_else(|| OracleError::UnknownName { name: label.to_owned(), line: instruction.line })
}

fn branch_by_index(world: &mut World<'_>, thread: &mut Thread, instruction: &Instruction) -> Result<(), OracleError> {
    let [index, Operand::Name(list)] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let index = operand::read(world, thread, index, Type::U32, instruction.line)? as usize;
    let label = world.program.branch_targets.get(list).and_then(|labels| labels.get(index));
    thread.pc = label_of(world, label.ok_or_else(|| unknown(instruction))?, instruction)?;
    Ok(())
}

/// `mov`, packing and unpacking included.
fn transfer(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let [target, source] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let ty = modifiers.ty().ok_or_else(|| unknown(instruction))?;
    let value = operand::read(world, thread, source, ty, instruction.line)?;
    match target {
        Operand::Vector(parts) => {
            let width = ty.bits() / parts.len() as u32;
            let values: Vec<u128> = (0..parts.len() as u32).map(|index| low(value >> (index * width), width)).collect();
            thread.write(world.program, target, &values);
        }
        _ => thread.write(world.program, target, &[low(value, ty.bits())]),
    }
    Ok(())
}

/// The space named by a modifier, with or without a sub-qualifier.
pub(crate) fn named_space(modifiers: &Modifiers) -> Option<Space> {
    modifiers.words().find_map(|word| match word.split("::").next() {
        Some("global") => Some(Space::Global),
        Some("shared") => Some(Space::Shared),
        Some("local") => Some(Space::Local),
        Some("const") => Some(Space::Const),
        Some("param") => Some(Space::Param),
        _ => None,
    })
}

fn load(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let [target, Operand::Address(place)] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let line = instruction.line;
    let ty = modifiers.ty().ok_or_else(|| unknown(instruction))?;
    let (space, address) = operand::address(world, thread, place, named_space(modifiers), line)?;
    let size = ty.bytes() as usize;
    let count = if let Operand::Vector(parts) = target { parts.len() } else { 1 };
    let mut values = Vec::with_capacity(count);
    let mut local = std::mem::take(&mut thread.local);
    for index in 0..count {
        let value = world.memory(&mut local).load(space, address + (index * size) as u64, size, line)?;
        values.push(if ty.is_signed() { signed(value, ty.bits()) as u128 } else { value });
    }
    thread.local = local;
    thread.write(world.program, target, &values);
    Ok(())
}

fn store(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let [Operand::Address(place), source] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let line = instruction.line;
    let ty = modifiers.ty().ok_or_else(|| unknown(instruction))?;
    let (space, address) = operand::address(world, thread, place, named_space(modifiers), line)?;
    let size = ty.bytes() as usize;
    let parts = if let Operand::Vector(parts) = source { parts.as_slice() } else { std::slice::from_ref(source) };
    let mut local = std::mem::take(&mut thread.local);
    for (index, part) in parts.iter().enumerate() {
        let value = operand::read(world, thread, part, ty, line)?;
        world.memory(&mut local).store(space, address + (index * size) as u64, size, value, line)?;
    }
    thread.local = local;
    Ok(())
}

/// `cvta` to generic, `cvta.to` from generic.
fn convert_address(
    world: &mut World<'_>,
    thread: &mut Thread,
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let [target, source] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let base = window(named_space(modifiers).ok_or_else(|| unknown(instruction))?);
    let value = operand::read(world, thread, source, Type::B64, instruction.line)? as u64;
    let result = if modifiers.has("to") { value.wrapping_sub(base) } else { value.wrapping_add(base) };
    thread.write(world.program, target, &[u128::from(result)]);
    Ok(())
}
