//! `mma.sync`: fragments as the manual lays them out, and products summed without intermediate rounding.

use ptxvm::ptx::ast::{Instruction, Operand, Type};

use crate::{
    error::OracleError,
    exact::{Rounding, Value},
    format::Format,
    machine::{Thread, World, unknown},
    modifiers::{Modifiers, integer, limits, low},
    operand,
};

/// Rows, columns and depth of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// A matrix of bit patterns.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    columns: usize,
    elements: Vec<u128>,
}

impl Matrix {
    pub(crate) fn zeros(rows: usize, columns: usize) -> Self {
        Self { columns, elements: vec![0; rows * columns] }
    }

    pub(crate) fn get(&self, row: usize, column: usize) -> u128 {
        self.elements[row * self.columns + column]
    }

    pub(crate) fn set(&mut self, row: usize, column: usize, value: u128) {
        self.elements[row * self.columns + column] = value;
    }
}

/// Reads `m16n8k16`.
pub(crate) fn shape_of(modifiers: &Modifiers) -> Option<Shape> {
    modifiers.words().find_map(|word| {
        let (m, rest) = word.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some(Shape { m: m.parse().ok()?, n: n.parse().ok()?, k: k.parse().ok()? })
    })
}

/// Bits of one element in a register: tf32 takes a whole one.
pub(crate) fn element_bits(ty: Type) -> u32 {
    ty.bits()
}

/// Which operand of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    A,
    B,
    C,
}

/// Row and column of element `index` (counted over the registers from the lowest bits) of a lane's fragment.
fn position(part: Part, shape: Shape, ty: Type, lane: usize, index: usize) -> (usize, usize) {
    let (group, thread) = (lane / 4, lane % 4);
    // Elements side by side in 32 bits; f64 has one in 64.
    let side = if ty == Type::F64 { 1 } else { (32 / element_bits(ty)) as usize };
    let (register, element) = (index / side, index % side);
    match part {
        Part::A if shape.m == 8 => (group, thread * side + element + 4 * side * register),
        Part::A => (group + 8 * (register % 2), thread * side + element + 4 * side * (register / 2)),
        Part::B => (thread * side + element + 4 * side * register, group),
        // Accumulators stand in pairs of columns whatever their type.
        Part::C => (group + 8 * (index / 2), thread * 2 + index % 2),
    }
}

/// The positions of `mma.m8n8k4` of f16, where four groups of eight lanes each make a product of their own.
fn position_of_quads(part: Part, column_major: bool, ty: Type, lane: usize, index: usize) -> (usize, usize) {
    let high = if lane >= 16 { 4 } else { 0 };
    match part {
        Part::A if column_major => (index % 4 + high, lane % 4),
        Part::A => (lane % 4 + high, index),
        Part::B if column_major => (index, lane % 4 + high),
        Part::B => (lane % 4, index + high),
        Part::C if ty == Type::F16 => (lane % 4 + high, index),
        Part::C => ((lane & 1) + (index & 2) + high, (index & 4) + (lane & 2) + (index & 1)),
    }
}

/// The registers of every lane for a vector operand.
pub(crate) fn registers(
    world: &World<'_>,
    lanes: &[Thread],
    operand: &Operand,
    ty: Type,
    line: u32,
) -> Result<Vec<Vec<u128>>, OracleError> {
    let parts = if let Operand::Vector(parts) = operand { parts.as_slice() } else { std::slice::from_ref(operand) };
    let word = if ty == Type::F64 {
        Type::F64
    } else if ty == Type::F32 {
        Type::F32
    } else {
        Type::B32
    };
    lanes
        .iter()
        .map(|thread| parts.iter().map(|part| operand::read(world, thread, part, word, line)).collect())
        .collect()
}

/// The elements of a lane's registers from the lowest bits up.
pub(crate) fn unpacked(registers: &[u128], ty: Type) -> Vec<u128> {
    let bits = element_bits(ty);
    let word = bits.max(32);
    registers
        .iter()
        .flat_map(|&register| (0..word / bits).map(move |index| low(register >> (index * bits), bits)))
        .collect()
}

/// The inverse of [`unpacked`].
pub(crate) fn packed(elements: &[u128], ty: Type) -> Vec<u128> {
    let bits = element_bits(ty);
    let side = (bits.max(32) / bits) as usize;
    elements
        .chunks(side)
        .map(|chunk| {
            chunk.iter().enumerate().fold(0, |word, (index, &value)| word | low(value, bits) << (index as u32 * bits))
        })
        .collect()
}

/// `a · b + c`, each element with one rounding of the exact sum.
pub(crate) fn product(
    modifiers: &Modifiers,
    shape: Shape,
    types: [Type; 4],
    a: &Matrix,
    b: &Matrix,
    c: &Matrix,
) -> Option<Matrix> {
    let [d_type, a_type, b_type, c_type] = types;
    let mut d = Matrix::zeros(shape.m, shape.n);
    for row in 0..shape.m {
        for column in 0..shape.n {
            let pairs = (0..shape.k).map(|depth| (a.get(row, depth), b.get(depth, column)));
            let start = c.get(row, column);
            let value = if let Some((format, _)) = Format::of(d_type) {
                let (a_format, b_format, c_format) =
                    (Format::of(a_type)?.0, Format::of(b_type)?.0, Format::of(c_type)?.0);
                let mut sum = c_format.decode(start);
                for (x, y) in pairs {
                    sum = sum.plus(&a_format.decode(x).times(&b_format.decode(y)), Rounding::NearestEven);
                }
                format.encode(&saturated(modifiers, format, sum), modifiers.rounding().unwrap_or(Rounding::NearestEven))
            } else if a_type == Type::B1 {
                let counted = pairs.filter(|&(x, y)| if modifiers.has("xor") { x != y } else { x & y == 1 }).count();
                low(start.wrapping_add(counted as u128), 32)
            } else {
                let sum: i128 = pairs.map(|(x, y)| integer(x, a_type) * integer(y, b_type)).sum();
                let sum = sum + integer(start, Type::S32);
                let (smallest, largest) = limits(Type::S32);
                let sum = if modifiers.has("satfinite") { sum.clamp(smallest, largest) } else { sum };
                low(sum as u128, 32)
            };
            d.set(row, column, value);
        }
    }
    Some(d)
}

/// `.satfinite` of wmma on floats: infinities become the largest number, NaN becomes +0.
fn saturated(modifiers: &Modifiers, format: Format, sum: Value) -> Value {
    if !modifiers.has("satfinite") {
        return sum;
    }
    match sum {
        Value::Nan => Value::Zero { negative: false },
        sum => format.decode(format.encode_finite(&sum, Rounding::NearestEven)),
    }
}

/// `mma.sync` by a whole warp.
pub(crate) fn multiply(
    world: &World<'_>,
    lanes: &mut [Thread],
    instruction: &Instruction,
    modifiers: &Modifiers,
) -> Result<(), OracleError> {
    let fail = || unknown(instruction);
    let [target, a, b, c] = instruction.operands.as_slice() else { return Err(fail()) };
    let &[d_type, a_type, b_type, c_type] = modifiers.types.as_slice() else { return Err(fail()) };
    let types = [d_type, a_type, b_type, c_type];
    let shape = shape_of(modifiers).ok_or_else(fail)?;
    let layouts: Vec<bool> =
        modifiers.words().filter(|word| matches!(*word, "row" | "col")).map(|word| word == "col").collect();
    let &[a_columns, b_columns] = layouts.as_slice() else { return Err(fail()) };
    let line = instruction.line;
    let fragments = [
        registers(world, lanes, a, a_type, line)?,
        registers(world, lanes, b, b_type, line)?,
        registers(world, lanes, c, c_type, line)?,
    ];
    let quads = shape == Shape { m: 8, n: 8, k: 4 } && a_type == Type::F16;
    let place = |part: Part, ty: Type, lane: usize, index: usize| {
        if quads {
            position_of_quads(part, if part == Part::A { a_columns } else { b_columns }, ty, lane, index)
        } else {
            position(part, shape, ty, lane, index)
        }
    };
    let accumulators = unpacked(&fragments[2][0], c_type).len();
    for product_index in 0..if quads { 4 } else { 1 } {
        let mine = |lane: usize| !quads || lane % 16 / 4 == product_index;
        let collect = |part: Part, ty: Type, rows: usize, columns: usize| {
            let mut matrix = Matrix::zeros(rows, columns);
            for (lane, registers) in fragments[part as usize].iter().enumerate().filter(|(lane, _)| mine(*lane)) {
                for (index, value) in unpacked(registers, ty).into_iter().enumerate() {
                    let (row, column) = place(part, ty, lane, index);
                    matrix.set(row, column, value);
                }
            }
            matrix
        };
        let a = collect(Part::A, a_type, shape.m, shape.k);
        let b = collect(Part::B, b_type, shape.k, shape.n);
        let c = collect(Part::C, c_type, shape.m, shape.n);
        let d = product(modifiers, shape, types, &a, &b, &c).ok_or_else(fail)?;
        for lane in (0..lanes.len()).filter(|&lane| mine(lane)) {
            let elements: Vec<u128> = (0..accumulators)
                .map(|index| {
                    let (row, column) = place(Part::C, d_type, lane, index);
                    d.get(row, column)
                })
                .collect();
            lanes[lane].write(world.program, target, &packed(&elements, d_type));
        }
    }
    Ok(())
}
