//! `ld`, `ldu`, `st`: their forms, and which code runs each.

pub(crate) mod address;
pub(crate) mod layout;
mod load;
mod rows;
mod run;
mod slow;
mod store;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use layout::pointers_of;

use load::Load;
use store::Store;

use crate::{
    machine::op::{NO_SLOT, Op, Slot},
    memory::Action,
    monitor::{AccessKind, Ordering, Scope},
    program::{
        CompileError,
        builder::{Builder, Modifiers, Place},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// The space that an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum OpSpace {
    /// `.global`, `.const`.
    Global,
    Shared,
    Local,
    /// `.param`, by register.
    Param,
    /// None named.
    Generic,
}

/// What an operation does to memory, packed into `Op::y`: kind, order, space, and how wide addresses are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessOp(pub(crate) u32);

impl AccessOp {
    pub(crate) fn new(kind: AccessKind, ordering: Ordering, space: OpSpace, narrow: bool) -> Self {
        let kind = kind as u32;
        let flags = u32::from(ordering.strong) | u32::from(ordering.acquire) << 1 | u32::from(ordering.release) << 2;
        Self(kind | (space as u32) << 4 | flags << 8 | (ordering.scope as u32) << 12 | u32::from(narrow) << 16)
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> AccessKind {
        match self.0 & 15 {
            0 => AccessKind::Read,
            1 => AccessKind::Write,
            2 => AccessKind::Atomic,
            3 => AccessKind::AsyncWrite,
            _ => AccessKind::AsyncRead,
        }
    }

    #[inline(always)]
    pub(crate) fn action(self) -> Action {
        match self.kind() {
            AccessKind::Read | AccessKind::AsyncRead => Action::Read,
            AccessKind::Write | AccessKind::AsyncWrite => Action::Write,
            AccessKind::Atomic => Action::Atomic,
        }
    }

    #[inline(always)]
    pub(crate) fn space(self) -> OpSpace {
        match self.0 >> 4 & 15 {
            0 => OpSpace::Global,
            1 => OpSpace::Shared,
            2 => OpSpace::Local,
            3 => OpSpace::Param,
            _ => OpSpace::Generic,
        }
    }

    #[inline(always)]
    pub(crate) fn ordering(self) -> Ordering {
        let scope = match self.0 >> 12 & 15 {
            0 => Scope::Block,
            1 => Scope::Device,
            _ => Scope::System,
        };
        Ordering { strong: self.0 >> 8 & 1 != 0, acquire: self.0 >> 9 & 1 != 0, release: self.0 >> 10 & 1 != 0, scope }
    }

    /// Whether address registers have 32 bits.
    #[inline(always)]
    pub(crate) fn narrow(self) -> bool {
        self.0 >> 16 & 1 != 0
    }
}

/// What one lane moves, packed into `Op::x`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// Bytes of one element in memory.
    pub(crate) bytes: u32,
    /// Elements.
    pub(crate) count: u32,
    /// Loads extend the sign up to this many bits and fill the rest of the register's word with zeros; 0: no sign.
    pub(crate) sign_to: u32,
    /// Bytes that a lane of the register takes up: 4, 8, 16.
    pub(crate) stored: u32,
}

impl Element {
    fn pack(self) -> u32 {
        self.bytes | self.count << 8 | self.sign_to << 12 | self.stored << 20
    }

    /// Bytes of the whole access of a lane.
    #[inline(always)]
    pub(crate) fn total(self) -> u64 {
        (self.bytes * self.count).into()
    }

    #[inline(always)]
    pub(crate) fn unpack(x: u32) -> Self {
        Self { bytes: x & 255, count: x >> 8 & 15, sign_to: x >> 12 & 255, stored: x >> 20 & 31 }
    }
}

/// Takes the space off; `None`: generic.
pub(crate) fn take_space(m: &mut Modifiers<'_>) -> Option<Space> {
    let name = m.take_any(&[
        "global",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "const",
        "param",
        "param::entry",
        "param::func",
    ])?;
    Some(match name {
        "global" => Space::Global,
        "local" => Space::Local,
        "const" => Space::Const,
        "param" | "param::entry" | "param::func" => Space::Param,
        // A cluster has one block here, so its shared memory is the block's own.
        _ => Space::Shared,
    })
}

pub(crate) fn op_space(space: Option<Space>) -> OpSpace {
    match space {
        Some(Space::Shared) => OpSpace::Shared,
        Some(Space::Local) => OpSpace::Local,
        Some(Space::Param) => OpSpace::Param,
        Some(_) => OpSpace::Global,
        None => OpSpace::Generic,
    }
}

/// Takes `.cta`, `.cluster`, `.gpu` or `.sys` off.
pub(crate) fn take_scope(m: &mut Modifiers<'_>) -> Option<Scope> {
    Some(match m.take_any(&["cta", "cluster", "gpu", "sys"])? {
        "cta" => Scope::Block,
        "sys" => Scope::System,
        _ => Scope::Device,
    })
}

/// Takes the hints to caches off, which change nothing here; true: `.L2::cache_hint`, which has an operand of its own.
pub(crate) fn take_hints(m: &mut Modifiers<'_>) -> bool {
    const HINTS: &[&str] = &[
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ];
    while m.take_any(HINTS).is_some() {}
    m.take("L2::cache_hint")
}

/// Checks the operand of `.L2::cache_hint`.
pub(crate) fn cache_policy(i: &Instruction, b: &mut Builder<'_>, operand: &Operand) -> Result<(), CompileError> {
    b.read(i, operand, Type::B64).map(|_| ())
}

fn take_order(m: &mut Modifiers<'_>, strongest: &str) -> Option<Ordering> {
    if m.take("weak") {
        return Some(Ordering::default());
    }
    if m.take("volatile") {
        return Some(Ordering { strong: true, scope: Scope::System, ..Ordering::default() });
    }
    let mmio = m.take("mmio");
    let order = m.take_any(&["relaxed", strongest]);
    match order {
        None => (!mmio).then(Ordering::default),
        Some(name) => Some(Ordering {
            strong: true,
            acquire: name == "acquire",
            release: name == "release",
            scope: take_scope(m)?,
        }),
    }
}

fn take_count(m: &mut Modifiers<'_>) -> u32 {
    match m.take_any(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    }
}

fn memory_type(i: &Instruction, b: &Builder<'_>, m: &mut Modifiers<'_>) -> Result<Type, CompileError> {
    let ty = m.take_type().ok_or_else(|| b.unknown(i))?;
    let plain = matches!(
        ty,
        Type::B8
            | Type::B16
            | Type::B32
            | Type::B64
            | Type::B128
            | Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::S8
            | Type::S16
            | Type::S32
            | Type::S64
            | Type::F16
            | Type::Bf16
            | Type::F16x2
            | Type::Bf16x2
            | Type::F32
            | Type::F64
    );
    if plain { Ok(ty) } else { Err(b.unknown(i)) }
}

/// Bytes that a lane of a register of this type takes up.
fn stored_bytes(ty: Type) -> u32 {
    match ty.bits() {
        128 => 16,
        64 => 8,
        _ => 4,
    }
}

/// What is addressed, after the operand has been resolved.
enum Target {
    Register { slot: Slot, narrow: bool },
    Frame,
    KernelParam,
}

fn target(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    space: Option<Space>,
    op: &mut Op,
) -> Result<Target, CompileError> {
    Ok(match b.place(i, operand, space)? {
        Place::Register { slot, bits, offset } => {
            op.a = slot;
            op.imm = offset as u64;
            if bits == 32 && !matches!(space, Some(Space::Shared | Space::Local | Space::Param)) {
                return Err(b.error(i, "an address of 32 bits, expected 64 in this space"));
            }
            Target::Register { slot, narrow: bits == 32 }
        }
        Place::KernelParam { offset } => {
            op.imm = offset as u64;
            Target::KernelParam
        }
        Place::Frame { offset } => {
            op.imm = offset as u64;
            Target::Frame
        }
    })
}

/// The address operand of an instruction that works through registers only; sets `op.a` and `op.imm`. True: its
/// registers have 32 bits.
pub(crate) fn register_address(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    space: Option<Space>,
    op: &mut Op,
) -> Result<bool, CompileError> {
    match target(i, b, operand, space, op)? {
        Target::Register { slot, narrow } => {
            op.a = slot;
            Ok(narrow)
        }
        Target::Frame | Target::KernelParam => {
            Err(b.error(i, "a variable in .local or .param memory cannot be used here"))
        }
    }
}

/// `ld`, `ldu`.
pub(crate) fn decode_load(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let ty = memory_type(i, b, &mut m)?;
    let count = take_count(&mut m);
    let space = take_space(&mut m);
    let mut order = take_order(&mut m, "acquire").ok_or_else(|| b.unknown(i))?;
    if b.is_guess() {
        order = Ordering { strong: true, scope: Scope::System, ..order };
    }
    m.take_any(&["ca", "cg", "cs", "lu", "cv"]);
    let hint = take_hints(&mut m);
    if m.take("nc") && space != Some(Space::Global) {
        return Err(b.error(i, "`.nc` belongs to .global"));
    }
    m.take("unified");
    m.finish(b)?;
    if order.strong && (i.opcode == "ldu" || matches!(space, Some(Space::Const | Space::Param))) {
        return Err(b.unknown(i));
    }
    let (data, address) = match i.operands.as_slice() {
        [data, address] if !hint => (data, address),
        [data, address, policy] if hint => {
            cache_policy(i, b, policy)?;
            (data, address)
        }
        other => return Err(b.error(i, format!("found {} operands", other.len()))),
    };
    let mut op = Op::new(run::frame::<Load>());
    let target = target(i, b, address, space, &mut op)?;
    let (slots, stored, register) = destinations(i, b, data, ty, count)?;
    check_width(i, b, ty, count)?;
    let sign_to = if ty.is_signed() && register.bits() > ty.bits() { register.bits() } else { 0 };
    let element = Element { bytes: ty.bytes(), count, sign_to, stored };
    op.x = element.pack();
    let narrow = matches!(target, Target::Register { narrow: true, .. });
    op.y = AccessOp::new(AccessKind::Read, order, op_space(space), narrow).0;
    op.exec = match target {
        Target::KernelParam => load::parameter(element),
        Target::Frame => run::frame::<Load>(),
        Target::Register { .. } => run::pick::<Load>(op_space(space), narrow, order, element),
    }
    .run();
    if count == 1 {
        op.d = slots[0];
        b.emit(op);
    } else {
        b.emit_wide(op, slots);
    }
    Ok(())
}

fn check_width(i: &Instruction, b: &Builder<'_>, ty: Type, count: u32) -> Result<(), CompileError> {
    let bytes = ty.bytes() * count;
    // 32 bytes came with sm_100 and PTX 8.8.
    if bytes > 32 || count == 8 && ty.bits() != 32 {
        return Err(b.error(i, format!("a vector of {bytes} bytes is wider than any access")));
    }
    Ok(())
}

fn destinations(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    ty: Type,
    count: u32,
) -> Result<(Vec<Slot>, u32, Type), CompileError> {
    let elements = b.elements(i, operand)?;
    if elements.len() != count as usize {
        return Err(b.error(i, format!("found {} registers, expected {count}", elements.len())));
    }
    let mut slots = Vec::with_capacity(elements.len());
    let mut widest: Option<Type> = None;
    for element in &elements {
        let sink = matches!(element, Operand::Name(name) if name == "_");
        // A sink takes the type of the others.
        let (slot, found) = match (sink, widest) {
            (true, Some(other)) => (b.temporary(other), other),
            _ => b.write_any(i, element, ty)?,
        };
        if sink && widest.is_some() {
            b.writes(slot);
        }
        if widest.is_some_and(|other| stored_bytes(other) != stored_bytes(found) || other.bits() != found.bits()) {
            return Err(b.error(i, "the registers of a vector differ in width"));
        }
        widest = Some(found);
        slots.push(slot);
    }
    let register = widest.unwrap_or(ty);
    Ok((slots, stored_bytes(register), register))
}

/// `st`.
pub(crate) fn decode_store(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    if m.take("async") || m.take("bulk") {
        return Err(b.error(i, "asynchronous and bulk stores are not modelled"));
    }
    let ty = memory_type(i, b, &mut m)?;
    let count = take_count(&mut m);
    let space = take_space(&mut m);
    let order = take_order(&mut m, "release").ok_or_else(|| b.unknown(i))?;
    m.take_any(&["wb", "cg", "cs", "wt"]);
    let hint = take_hints(&mut m);
    m.finish(b)?;
    let (address, data) = match i.operands.as_slice() {
        [address, data] if !hint => (address, data),
        [address, data, policy] if hint => {
            cache_policy(i, b, policy)?;
            (address, data)
        }
        other => return Err(b.error(i, format!("found {} operands", other.len()))),
    };
    if space == Some(Space::Const) {
        return Err(b.error(i, "constant memory cannot be written"));
    }
    let mut op = Op::new(run::frame::<Store>());
    let target = target(i, b, address, space, &mut op)?;
    check_width(i, b, ty, count)?;
    let elements = b.elements(i, data)?;
    if elements.len() != count as usize {
        return Err(b.error(i, format!("found {} registers, expected {count}", elements.len())));
    }
    let mut slots = Vec::with_capacity(elements.len());
    let mut stored = None;
    for element in &elements {
        let (slot, found) = b.read_any(i, element, ty)?;
        // Immediates beside registers are made as wide as the value in memory, which those may exceed.
        let width = stored_bytes(found);
        if *stored.get_or_insert(width) != width {
            return Err(b.error(i, "the registers of a vector differ in width"));
        }
        slots.push(slot);
    }
    let element = Element { bytes: ty.bytes(), count, sign_to: 0, stored: stored.unwrap_or(4) };
    op.x = element.pack();
    let narrow = matches!(target, Target::Register { narrow: true, .. });
    op.y = AccessOp::new(AccessKind::Write, order, op_space(space), narrow).0;
    op.exec = match target {
        Target::KernelParam => return Err(b.error(i, "kernel parameters cannot be written")),
        Target::Frame => run::frame::<Store>(),
        Target::Register { .. } => run::pick::<Store>(op_space(space), narrow, order, element),
    }
    .run();
    if count == 1 {
        op.b = slots[0];
        b.emit(op);
    } else {
        debug_assert_eq!(op.b, NO_SLOT);
        b.emit_wide(op, slots);
    }
    Ok(())
}
