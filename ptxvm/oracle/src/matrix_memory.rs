//! `ldmatrix`, `stmatrix` and `movmatrix`: 8×8 matrices of 16-bit elements.

use ptxvm::ptx::ast::{Instruction, Operand};

use crate::{
    error::OracleError,
    execute::named_space,
    machine::{Thread, World, unknown},
    modifiers::{Modifiers, low},
    operand,
};

/// Elements of a lane's register in a matrix: row, column of the low half; the high half is the next column.
fn place(lane: usize, half: usize, transposed: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + half);
    if transposed { (column, row) } else { (row, column) }
}

pub(crate) fn execute(
    world: &mut World<'_>,
    lanes: &mut [Thread],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let transposed = modifiers.has("trans");
    let line = instruction.line;
    match (instruction.opcode.as_str(), instruction.operands.as_slice()) {
        ("movmatrix", [target, source]) => {
            let mut values = Vec::new();
            for thread in lanes.iter() {
                values.push(operand::read(world, thread, source, ptxvm::ptx::ast::Type::B32, line)?);
            }
            let element = |row: usize, column: usize| low(values[row * 4 + column / 2] >> (16 * (column % 2)), 16);
            for (lane, thread) in lanes.iter_mut().enumerate() {
                let [lower, upper] = [0, 1].map(|half| {
                    let (row, column) = place(lane, half, transposed);
                    element(row, column)
                });
                thread.write(world.program, target, &[upper << 16 | lower]);
            }
            Ok(())
        }
        ("ldmatrix", [target, Operand::Address(address)]) => {
            let count = if let Operand::Vector(parts) = target { parts.len() } else { 1 };
            let rows = row_addresses(world, lanes, address, modifiers, count, line)?;
            for (lane, thread) in lanes.iter_mut().enumerate() {
                let mut values = Vec::new();
                for matrix in 0..count {
                    let mut word = 0;
                    for half in 0..2 {
                        let (row, column) = place(lane, half, transposed);
                        let (space, base) = rows[matrix * 8 + row];
                        let mut local = std::mem::take(&mut thread.local);
                        let value = world.memory(&mut local).load(space, base + 2 * column as u64, 2, line);
                        thread.local = local;
                        word |= value? << (16 * half);
                    }
                    values.push(word);
                }
                thread.write(world.program, target, &values);
            }
            Ok(())
        }
        ("stmatrix", [Operand::Address(address), source]) => {
            let parts =
                if let Operand::Vector(parts) = source { parts.as_slice() } else { std::slice::from_ref(source) };
            let rows = row_addresses(world, lanes, address, modifiers, parts.len(), line)?;
            for (lane, thread) in lanes.iter_mut().enumerate() {
                for (matrix, part) in parts.iter().enumerate() {
                    let word = operand::read(world, thread, part, ptxvm::ptx::ast::Type::B32, line)?;
                    for half in 0..2 {
                        let (row, column) = place(lane, half, transposed);
                        let (space, base) = rows[matrix * 8 + row];
                        let mut local = std::mem::take(&mut thread.local);
                        let value = low(word >> (16 * half), 16);
                        let stored = world.memory(&mut local).store(space, base + 2 * column as u64, 2, value, line);
                        thread.local = local;
                        stored?;
                    }
                }
            }
            Ok(())
        }
        _ => Err(unknown(instruction)),
    }
}

type Place = (Option<ptxvm::ptx::ast::Space>, u64);

/// Lane 8·i + r holds the address of row r of matrix i.
fn row_addresses(
    world: &World<'_>,
    lanes: &[Thread],
    address: &ptxvm::ptx::ast::Address,
    modifiers: &Modifiers,
    matrices: usize,
    line: u32,
) -> Result<Vec<Place>, OracleError> {
    lanes
        .iter()
        .take(8 * matrices)
        .map(|thread| operand::address(world, thread, address, named_space(modifiers), line))
        .collect()
}
