//! `wmma`: products of whole matrices, with fragments that programs may only load, store, and change element by element.
//!
//! Fragments are those of `mma`, tile after tile, as on the hardware since sm_80: `wmma.mma` is `mma` on each tile of
//! 16 × 8 (or 8 × 8) results. Fragments of f16 factors have more registers than elements to hold; the rest repeat.

use super::{
    decode::{
        Layout, Shape, kind_of, product, read_fragment, register_type, take_bit_operation, take_layout, take_shape,
        write_fragment,
    },
    double,
    kernel::Request,
    wmma_memory::{self, Transfer},
};
use crate::{
    machine::op::{Exec, NO_SLOT, Op},
    program::{
        CompileError,
        builder::{Builder, Modifiers, Place},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// Which matrix of `d = a · b + c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    A,
    B,
    /// `c` or `d`.
    C,
}

/// How a product is made of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Registers along k.
    pub(super) s: u32,
    /// Times eight rows in a tile.
    pub(super) h: u32,
    /// Tiles along m.
    pub(super) rows: u32,
    /// Tiles along n.
    pub(super) columns: u32,
}

impl Tiling {
    /// Of a shape with factors of a type, if there is such a product.
    pub(super) fn of(shape: Shape, factor: Type) -> Option<Self> {
        let whole = match (shape.m, shape.n) {
            (16, 16) => Self { s: 1, h: 2, rows: 1, columns: 2 },
            (32, 8) => Self { s: 1, h: 2, rows: 2, columns: 1 },
            (8, 32) => Self { s: 1, h: 1, rows: 1, columns: 4 },
            (8, 8) => Self { s: 1, h: 1, rows: 1, columns: 1 },
            _ => return None,
        };
        let large = shape.n != 8 || shape.m == 32;
        match (factor, shape.k) {
            (Type::F16 | Type::Bf16, 16) if large => Some(Self { s: 2, ..whole }),
            (Type::S8 | Type::U8, 16) if large => Some(whole),
            (Type::Tf32, 8) if (shape.m, shape.n) == (16, 16) => Some(Self { s: 2, ..whole }),
            (Type::F64, 4) | (Type::S4 | Type::U4, 32) | (Type::B1, 128) if !large => Some(whole),
            _ => None,
        }
    }

    /// Registers of a fragment that hold different elements.
    fn registers(self, part: Part, ty: Type) -> u32 {
        match part {
            Part::A => self.s * self.h * self.rows,
            Part::B => self.s * self.columns,
            Part::C => self.h * self.rows * self.columns * if ty == Type::F16 { 1 } else { 2 },
        }
    }

    /// Registers of a fragment.
    fn all_registers(self, part: Part, ty: Type) -> u32 {
        if part != Part::C && ty == Type::F16 { 8 } else { self.registers(part, ty) }
    }
}

/// The shapes whose accumulators are of a type; those of f32 and s32 do not tell the type of the factors.
fn tiling_of_sums(shape: Shape, ty: Type) -> Option<Tiling> {
    let factors: &[Type] = match ty {
        Type::F16 => &[Type::F16],
        Type::F32 => &[Type::F16, Type::Tf32],
        Type::S32 => &[Type::S8, Type::S4, Type::B1],
        Type::F64 => &[Type::F64],
        _ => &[],
    };
    factors.iter().find_map(|factor| Tiling::of(shape, *factor))
}

/// `wmma.load`, `wmma.store`, `wmma.mma`.
pub(super) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let action = m.take_any(&["load", "store", "mma"]);
    if !m.take("sync") || !m.take("aligned") {
        return Err(b.error(i, "wmma must be .sync.aligned"));
    }
    match action {
        Some("mma") => multiply(i, b, m),
        Some(action) => transfer(i, b, m, action == "load"),
        None => Err(b.error(i, "wmma.load, wmma.store or wmma.mma is expected")),
    }
}

fn transfer(i: &Instruction, b: &mut Builder<'_>, mut m: Modifiers<'_>, load: bool) -> Result<(), CompileError> {
    let part = match m.take_any(if load { &["a", "b", "c"] } else { &["d"] }) {
        Some("a") => Part::A,
        Some("b") => Part::B,
        Some(_) => Part::C,
        None => return Err(b.unknown(i)),
    };
    let layout = take_layout(&mut m).ok_or_else(|| b.error(i, ".row or .col is expected"))?;
    let shape = take_shape(&mut m).ok_or_else(|| b.error(i, "a shape like .m16n16k16 is expected"))?;
    let space = match m.take_any(&["global", "shared", "shared::cta"]) {
        Some("global") => Some(Space::Global),
        Some(_) => Some(Space::Shared),
        None => None,
    };
    let ty = m.take_type().ok_or_else(|| b.unknown(i))?;
    m.finish(b)?;
    let tiling = match part {
        Part::C => tiling_of_sums(shape, ty),
        _ => Tiling::of(shape, ty),
    };
    let tiling = tiling.ok_or_else(|| b.unknown(i))?;
    // Along k in `a` and `b`, along columns in `c`: where the elements of one register lie side by side.
    let along = layout == if part == Part::B { Layout::Column } else { Layout::Row };
    if ty.bits() < 8 && !along {
        return Err(b.error(i, "elements below 8 bits lie along k in memory: a by .row, b by .col"));
    }
    let (fragment, address, stride) = match (load, i.operands.as_slice()) {
        (true, [fragment, address]) => (fragment, address, None),
        (true, [fragment, address, stride]) => (fragment, address, Some(stride)),
        (false, [address, fragment]) => (fragment, address, None),
        (false, [address, fragment, stride]) => (fragment, address, Some(stride)),
        _ => return Err(b.error(i, format!("found {} operands, expected 2 or 3", i.operands.len()))),
    };
    let count = tiling.all_registers(part, ty) as usize;
    let Place::Register { slot, bits, offset } = b.place(i, address, space)? else {
        return Err(b.error(i, "matrices lie in global or shared memory"));
    };
    if bits == 32 && space != Some(Space::Shared) {
        return Err(b.error(i, "an address of this space has 64 bits"));
    }
    let description = Transfer { part, ty: ty.bits(), along, tiling, space, narrow: bits == 32 };
    let mut op = Op::new(if load { wmma_memory::load() } else { wmma_memory::store() });
    op.a = slot;
    op.b = stride.map_or(Ok(NO_SLOT), |stride| b.read(i, stride, Type::B32))?;
    op.imm = offset as u64;
    (op.x, op.y) = description.pack();
    let wide =
        if load { write_fragment(i, b, fragment, ty, count)? } else { read_fragment(i, b, fragment, ty, count)? };
    b.emit_suspending(op, wide);
    Ok(())
}

fn multiply(i: &Instruction, b: &mut Builder<'_>, mut m: Modifiers<'_>) -> Result<(), CompileError> {
    let and = take_bit_operation(&mut m);
    let saturate = m.take("satfinite");
    let rounding = m.take("rn");
    let (a_layout, b_layout) = (take_layout(&mut m), take_layout(&mut m));
    let shape = take_shape(&mut m).ok_or_else(|| b.error(i, "a shape like .m16n16k16 is expected"))?;
    let mut types = Vec::new();
    while let Some(ty) = m.take_type() {
        types.insert(0, ty);
    }
    m.finish(b)?;
    let types = match *types.as_slice() {
        // Products of f16 name the types of d and c only.
        [d @ (Type::F16 | Type::F32), c @ (Type::F16 | Type::F32)] => [d, Type::F16, Type::F16, c],
        [d, first, second, c] if first != Type::F16 && first == second => [d, first, second, c],
        _ => return Err(b.unknown(i)),
    };
    let (Some(a_layout), Some(b_layout)) = (a_layout, b_layout) else {
        return Err(b.error(i, "the layouts of both factors are expected, as in .row.col"));
    };
    let narrow = types[1].bits() < 8;
    let floats = types[0].is_float();
    let bits = types[1] == Type::B1;
    // Layouts are the loads' affair, but some do not exist.
    let no_layout = narrow && (a_layout, b_layout) != (Layout::Row, Layout::Column);
    let no_saturation = bits || floats && types != [Type::F16; 4];
    if no_layout || saturate && no_saturation || rounding && types[1] != Type::F64 || bits != and.is_some() {
        return Err(b.unknown(i));
    }
    let tiling = Tiling::of(shape, types[1]).ok_or_else(|| b.unknown(i))?;
    if types[1] == Type::F64 {
        return if types == [Type::F64; 4] { double::decode(i, b, shape) } else { Err(b.unknown(i)) };
    }
    let exec = exec(types, and, tiling).ok_or_else(|| b.unknown(i))?;
    let [d, first, second, third] = b.operands::<4>(i)?;
    let mut sources = Vec::new();
    for (operand, part, ty) in [(first, Part::A, types[1]), (second, Part::B, types[2]), (third, Part::C, types[3])] {
        sources.extend(read_part(i, b, operand, part, ty, tiling)?);
    }
    let mut wide = write_fragment(i, b, d, types[0], tiling.registers(Part::C, types[0]) as usize)?;
    wide.extend(sources);
    let mut op = Op::new(exec);
    op.x = Request {
        a_kind: kind_of(types[1]),
        b_kind: kind_of(types[2]),
        saturate,
        rows: tiling.rows,
        columns: tiling.columns,
    }
    .pack();
    b.emit_suspending(op, wide);
    Ok(())
}

/// The registers of a fragment that hold different elements.
fn read_part(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    part: Part,
    ty: Type,
    tiling: Tiling,
) -> Result<Vec<u32>, CompileError> {
    let elements = b.elements(i, operand)?;
    let all = tiling.all_registers(part, ty) as usize;
    if elements.len() != all {
        return Err(b.error(i, format!("a fragment has {} registers, expected {all}", elements.len())));
    }
    let distinct = tiling.registers(part, ty) as usize;
    elements[..distinct].iter().map(|operand| b.read(i, operand, register_type(ty))).collect()
}

fn exec(types: [Type; 4], and: Option<bool>, tiling: Tiling) -> Option<Exec> {
    match (tiling.s, tiling.h) {
        (1, 1) => product::<1, 1>(types, and),
        (1, 2) => product::<1, 2>(types, and),
        (2, 1) => product::<2, 1>(types, and),
        (2, 2) => product::<2, 2>(types, and),
        _ => None,
    }
}
