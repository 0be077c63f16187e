//! `wmma`: whole matrices between memory and fragments whose layout the manual leaves open.
//!
//! Here element i of a matrix (row by row) is element i mod p of lane i / p, where a lane holds p elements.

use ptxvm::ptx::ast::{Instruction, Operand, Type};

use crate::{
    error::OracleError,
    execute::named_space,
    machine::{Thread, WARP, World, unknown},
    matrix::{Matrix, Shape, element_bits, packed, product, registers, shape_of, unpacked},
    modifiers::{Modifiers, low},
    operand,
};

/// Rows and columns of matrix `a`, `b`, or `c` and `d`.
fn extent(which: &str, shape: Shape) -> (usize, usize) {
    match which {
        "a" => (shape.m, shape.k),
        "b" => (shape.k, shape.n),
        _ => (shape.m, shape.n),
    }
}

pub(crate) fn execute(
    world: &mut World<'_>,
    lanes: &mut [Thread],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    match modifiers.first_of(&["load", "store", "mma"]) {
        Some("load") => transfer(world, lanes, instruction, modifiers, true),
        Some("store") => transfer(world, lanes, instruction, modifiers, false),
        Some(_) => multiply(world, lanes, instruction, modifiers),
        None => Err(unknown(instruction)),
    }
}

fn collect(fragments: &[Vec<u128>], ty: Type, rows: usize, columns: usize) -> Matrix {
    let mut matrix = Matrix::zeros(rows, columns);
    let share = rows * columns / WARP;
    for (lane, registers) in fragments.iter().enumerate() {
        for (index, value) in unpacked(registers, ty).into_iter().take(share).enumerate() {
            let flat = lane * share + index;
            matrix.set(flat / columns, flat % columns, value);
        }
    }
    matrix
}

fn distribute(
    world: &World<'_>,
    lanes: &mut [Thread],
    target: &Operand,
    ty: Type,
    matrix: &Matrix,
    extent: (usize, usize),
) {
    let (rows, columns) = extent;
    let share = rows * columns / WARP;
    for (lane, thread) in lanes.iter_mut().enumerate() {
        let elements: Vec<u128> = (0..share)
            .map(|index| {
                let flat = lane * share + index;
                matrix.get(flat / columns, flat % columns)
            })
            .collect();
        let mut values = packed(&elements, ty);
        if let Operand::Vector(parts) = target {
            values.resize(parts.len(), 0);
        }
        thread.write(world.program, target, &values);
    }
}

fn transfer(
    world: &mut World<'_>,
    lanes: &mut [Thread],
    instruction: &Instruction,
    modifiers: &Modifiers,
    load: bool,
) -> Result<(), OracleError> {
    let fail = || unknown(instruction);
    let line = instruction.line;
    let ty = modifiers.ty().ok_or_else(fail)?;
    let shape = shape_of(modifiers).ok_or_else(fail)?;
    let which = modifiers.first_of(&["a", "b", "c", "d"]).ok_or_else(fail)?;
    let (rows, columns) = extent(which, shape);
    let by_column = modifiers.has("col");
    let (registers_operand, address, stride) = match (load, instruction.operands.as_slice()) {
        (true, [target, Operand::Address(address), rest @ ..]) => (target, address, rest.first()),
        (false, [Operand::Address(address), source, rest @ ..]) => (source, address, rest.first()),
        _ => return Err(fail()),
    };
    let leader = &lanes[0];
    let stride = match stride {
        Some(stride) => operand::read(world, leader, stride, Type::B32, line)? as usize,
        None if by_column => rows,
        None => columns,
    };
    let (space, base) = operand::address(world, leader, address, named_space(modifiers), line)?;
    let bits = element_bits(ty) as usize;
    let mut local = Vec::new();
    let at = |row: usize, column: usize| {
        let bit = if by_column { column * stride + row } else { row * stride + column } * bits;
        (base + (bit / 8) as u64, bit % 8)
    };
    let mut matrix = Matrix::zeros(rows, columns);
    if !load {
        let fragments = registers(world, lanes, registers_operand, ty, line)?;
        matrix = collect(&fragments, ty, rows, columns);
    }
    for row in 0..rows {
        for column in 0..columns {
            let (address, shift) = at(row, column);
            let bytes = bits.div_ceil(8);
            let mut memory = world.memory(&mut local);
            if load {
                matrix.set(row, column, low(memory.load(space, address, bytes, line)? >> shift, bits as u32));
            } else {
                memory.store(space, address, bytes, matrix.get(row, column), line)?;
            }
        }
    }
    if load {
        distribute(world, lanes, registers_operand, ty, &matrix, (rows, columns));
    }
    Ok(())
}

fn multiply(
    world: &World<'_>,
    lanes: &mut [Thread],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let fail = || unknown(instruction);
    let [target, a, b, c] = instruction.operands.as_slice() else { return Err(fail()) };
    let types = match *modifiers.types.as_slice() {
        // Products of f16 name the types of d and c only.
        [d, c] => [d, Type::F16, Type::F16, c],
        [d, a, b, c] => [d, a, b, c],
        _ => return Err(fail()),
    };
    let shape = shape_of(modifiers).ok_or_else(fail)?;
    let line = instruction.line;
    let read = |operand: &Operand, which: &str, ty: Type| {
        let (rows, columns) = extent(which, shape);
        registers(world, lanes, operand, ty, line).map(|fragments| collect(&fragments, ty, rows, columns))
    };
    let a = read(a, "a", types[1])?;
    let b = read(b, "b", types[2])?;
    let c = read(c, "c", types[3])?;
    let d = product(modifiers, shape, types, &a, &b, &c).ok_or_else(fail)?;
    distribute(world, lanes, target, types[0], &d, extent("d", shape));
    Ok(())
}
