//! The forms of `mma`.

use super::{
    double, kernel,
    kernel::{Packed, Request, Single},
    product::{Bits, Brain, Bytes, E4M3, E5M2, Half, Nibbles, Quarter, SIGNED, Tensor, UNSIGNED},
    quads, vector,
};
use crate::{
    machine::op::{Exec, Op, Slot},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// Rows, columns, and what is summed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
}

/// Takes the first modifier that looks like `m16n8k16`.
pub(super) fn take_shape(m: &mut Modifiers<'_>) -> Option<Shape> {
    let parse = |name: &str| {
        let (rows, rest) = name.strip_prefix('m')?.split_once('n')?;
        let (columns, depth) = rest.split_once('k')?;
        Some(Shape { m: rows.parse().ok()?, n: columns.parse().ok()?, k: depth.parse().ok()? })
    };
    let name = *m.left().iter().find(|name| parse(name).is_some())?;
    m.take(name);
    parse(name)
}

/// Takes `row` or `col`.
pub(super) fn take_layout(m: &mut Modifiers<'_>) -> Option<Layout> {
    m.take_any(&["row", "col"]).map(|name| if name == "row" { Layout::Row } else { Layout::Column })
}

/// How a matrix lies in memory, or in fragments of `mma.m8n8k4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Row,
    Column,
}

/// What is done with single bits.
pub(super) fn take_bit_operation(m: &mut Modifiers<'_>) -> Option<bool> {
    let name = m.take_any(&["and", "xor"])?;
    m.take("popc").then_some(name == "and")
}

/// Number of registers that fragments have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) d: usize,
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) c: usize,
}

/// The type of one register of a fragment.
pub(super) fn register_type(element: Type) -> Type {
    match element {
        Type::F64 => Type::F64,
        Type::F32 => Type::F32,
        Type::S32 => Type::S32,
        _ => Type::B32,
    }
}

/// The registers of a fragment that is read.
pub(super) fn read_fragment(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    element: Type,
    count: usize,
) -> Result<Vec<Slot>, CompileError> {
    let elements = fragment(i, b, operand, count)?;
    elements.iter().map(|operand| b.read(i, operand, register_type(element))).collect()
}

/// The registers of a fragment that is written.
pub(super) fn write_fragment(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    element: Type,
    count: usize,
) -> Result<Vec<Slot>, CompileError> {
    let elements = fragment(i, b, operand, count)?;
    elements.iter().map(|operand| b.write(i, operand, register_type(element))).collect()
}

fn fragment(i: &Instruction, b: &Builder<'_>, operand: &Operand, count: usize) -> Result<Vec<Operand>, CompileError> {
    let elements = b.elements(i, operand)?;
    if elements.len() != count {
        return Err(b.error(i, format!("a fragment has {} registers, expected {count}", elements.len())));
    }
    Ok(elements)
}

/// What runs products of these types, of `S` registers along k and `H` times eight rows.
pub(super) fn product<const S: usize, const H: usize>(types: [Type; 4], and: Option<bool>) -> Option<Exec> {
    use kernel::Multiply;
    use vector::exec;
    let [d, a, b, c] = types;
    let integer = |ty: Type, other: Type| matches!((ty, other), (Type::S8 | Type::U8, Type::S8 | Type::U8));
    let nibble = |ty: Type, other: Type| matches!((ty, other), (Type::S4 | Type::U4, Type::S4 | Type::U4));
    let quarter = |ty: Type| matches!(ty, Type::E4m3 | Type::E5m2);
    Some(match (d, c) {
        (Type::F32, Type::F32) => match (a, b) {
            (Type::F16, Type::F16) => exec::<Multiply<Half, Single, Single, S, H>>(),
            (Type::Bf16, Type::Bf16) => exec::<Multiply<Brain, Single, Single, S, H>>(),
            (Type::Tf32, Type::Tf32) => exec::<Multiply<Tensor, Single, Single, S, H>>(),
            _ if quarter(a) && quarter(b) => exec::<Multiply<Quarter, Single, Single, S, H>>(),
            _ => return None,
        },
        (Type::F16, Type::F16) => match (a, b) {
            (Type::F16, Type::F16) => exec::<Multiply<Half, Packed, Packed, S, H>>(),
            _ if quarter(a) && quarter(b) => exec::<Multiply<Quarter, Packed, Packed, S, H>>(),
            _ => return None,
        },
        (Type::F32, Type::F16) if (a, b) == (Type::F16, Type::F16) => exec::<Multiply<Half, Packed, Single, S, H>>(),
        (Type::F16, Type::F32) if (a, b) == (Type::F16, Type::F16) => exec::<Multiply<Half, Single, Packed, S, H>>(),
        (Type::S32, Type::S32) => match and {
            Some(true) => exec::<Multiply<Bits<true>, Single, Single, S, H>>(),
            Some(false) => exec::<Multiply<Bits<false>, Single, Single, S, H>>(),
            None if integer(a, b) => exec::<Multiply<Bytes, Single, Single, S, H>>(),
            None if nibble(a, b) => exec::<Multiply<Nibbles, Single, Single, S, H>>(),
            None => return None,
        },
        _ => return None,
    })
}

/// Tells types apart that share a product.
pub(super) fn kind_of(ty: Type) -> u32 {
    match ty {
        Type::E5m2 => E5M2,
        Type::S8 | Type::S4 => SIGNED,
        Type::E4m3 => E4M3,
        _ => UNSIGNED,
    }
}

/// Takes the four types of d, a, b and c, which stand last.
fn take_types(m: &mut Modifiers<'_>) -> Option<[Type; 4]> {
    let c = m.take_type()?;
    let b = m.take_type()?;
    let a = m.take_type()?;
    Some([m.take_type()?, a, b, c])
}

/// `mma`.
pub(super) fn multiply(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    if m.take_any(&["sp", "sp::ordered_metadata"]).is_some() {
        return Err(b.error(i, "products of sparse matrices are not modelled"));
    }
    if m.take("block_scale") {
        return Err(b.error(i, "products with scaled blocks are not modelled"));
    }
    if !m.take("sync") || !m.take("aligned") {
        return Err(b.error(i, "mma must be .sync.aligned"));
    }
    let and = take_bit_operation(&mut m);
    let rounding = m.take("rn");
    let saturate = m.take("satfinite");
    let types = take_types(&mut m).ok_or_else(|| b.unknown(i))?;
    let shape = take_shape(&mut m).ok_or_else(|| b.error(i, "a shape like .m16n8k16 is expected"))?;
    let layouts = (take_layout(&mut m), take_layout(&mut m));
    let (Some(a_layout), Some(b_layout)) = layouts else {
        return Err(b.error(i, "the layouts of both factors are expected, as in .row.col"));
    };
    let narrow_kind = m.take("kind::f8f6f4");
    m.finish(b)?;
    let integers = types[0] == Type::S32;
    let quarters = matches!(types[1], Type::E4m3 | Type::E5m2);
    let bits = types[1] == Type::B1;
    if saturate && (!integers || bits)
        || narrow_kind && !(quarters && shape.k == 32)
        || bits != and.is_some()
        || rounding && types[0] != Type::F64
    {
        return Err(b.unknown(i));
    }
    if shape == (Shape { m: 8, n: 8, k: 4 }) && types[1] == Type::F16 {
        return quads::decode(i, b, types, a_layout, b_layout);
    }
    if (a_layout, b_layout) != (Layout::Row, Layout::Column) {
        return Err(b.error(i, "this shape takes its factors as .row.col only"));
    }
    if types == [Type::F64; 4] {
        return double::decode(i, b, shape);
    }
    let dense = dense(types, and, shape).ok_or_else(|| b.unknown(i))?;
    let request = Request { a_kind: kind_of(types[1]), b_kind: kind_of(types[2]), saturate, rows: 1, columns: 1 };
    emit(i, b, dense.0, dense.1, types, request)
}

/// The registers and the code of a product of one tile.
fn dense(types: [Type; 4], and: Option<bool>, shape: Shape) -> Option<(Counts, Exec)> {
    let [d, a, _, c] = types;
    // Elements along k in one register of a row's four lanes.
    let step = match a {
        Type::F16 | Type::Bf16 => 8,
        Type::Tf32 => 4,
        Type::E4m3 | Type::E5m2 | Type::S8 | Type::U8 => 16,
        Type::S4 | Type::U4 => 32,
        Type::B1 => 128,
        _ => return None,
    };
    let mixed = d != c;
    let half_rows = shape.m == 8 && !matches!(a, Type::S8 | Type::U8 | Type::S4 | Type::U4 | Type::B1);
    if shape.n != 8 || mixed || half_rows {
        return None;
    }
    let sums = |rows: usize| if c == Type::F16 { rows } else { 2 * rows };
    let (exec, s, h) = match (shape.m, shape.k / step, shape.k % step) {
        (8, 1, 0) => (product::<1, 1>(types, and)?, 1, 1),
        (16, 1, 0) => (product::<1, 2>(types, and)?, 1, 2),
        (16, 2, 0) => (product::<2, 2>(types, and)?, 2, 2),
        _ => return None,
    };
    Some((Counts { d: sums(h), a: s * h, b: s, c: sums(h) }, exec))
}

/// Appends a product.
fn emit(
    i: &Instruction,
    b: &mut Builder<'_>,
    counts: Counts,
    exec: Exec,
    types: [Type; 4],
    request: Request,
) -> Result<(), CompileError> {
    let [d, first, second, third] = b.operands::<4>(i)?;
    let mut wide = Vec::with_capacity(counts.d + counts.a + counts.b + counts.c);
    let factors = [
        read_fragment(i, b, first, types[1], counts.a)?,
        read_fragment(i, b, second, types[2], counts.b)?,
        read_fragment(i, b, third, types[3], counts.c)?,
    ];
    wide.extend(write_fragment(i, b, d, types[0], counts.d)?);
    wide.extend(factors.concat());
    let mut op = Op::new(exec);
    op.x = request.pack();
    b.emit_suspending(op, wide);
    Ok(())
}
