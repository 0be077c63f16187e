//! What a family of opcodes (`crate::ops`) sees of the function being compiled: names become slots, operations are
//! appended, and who reads and writes what is noted for the allocation of slots.

use super::{CompileError, Constant, draft::*, symbols::*};
use crate::{
    machine::op::{NO_SLOT, Op, Slot},
    ops::special::Special,
    ptx::ast::{Address, AddressBase, Float, Instruction, Operand, Space, Type},
};
use std::collections::HashMap;

/// An address operand, resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// A register (of 64 bits, or 32 in a small space) plus an offset; variables of module and shared scope are constants.
    Register { slot: Slot, bits: u32, offset: i64 },
    /// A byte of the kernel's parameters.
    KernelParam { offset: i64 },
    /// A byte of the frame's local memory: `.local` variables and a device function's `.param` ones.
    Frame { offset: i64 },
}

/// The function being compiled.
pub(crate) struct Builder<'a> {
    pub(crate) module: &'a ModuleSymbols,
    pub(crate) function: &'a str,
    pub(crate) scopes: Vec<HashMap<String, Symbol>>,
    pub(crate) values: Vec<Value>,
    pub(crate) constants: HashMap<(Class, Constant), Slot>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) labels: u32,
    pub(crate) local_bytes: u32,
    pub(crate) instructions: Vec<super::InstructionInfo>,
    pub(crate) calls: Vec<super::CallSite>,
    pub(crate) tables: Vec<Vec<Label>>,
    carry: Option<Slot>,
    reads: Vec<Slot>,
    writes: Vec<Slot>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(module: &'a ModuleSymbols, function: &'a str) -> Self {
        Self {
            module,
            function,
            scopes: vec![HashMap::new()],
            values: Vec::new(),
            constants: HashMap::new(),
            drafts: Vec::new(),
            labels: 0,
            local_bytes: 0,
            instructions: Vec::new(),
            calls: Vec::new(),
            tables: Vec::new(),
            carry: None,
            reads: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// An error about an instruction.
    pub(crate) fn error(&self, instruction: &Instruction, reason: impl Into<String>) -> CompileError {
        CompileError {
            line: instruction.line,
            function: self.function.to_owned(),
            opcode: instruction.full_opcode(),
            reason: reason.into(),
        }
    }

    /// The error for a modifier, a type or a combination that the opcode does not have (or that is not modelled).
    pub(crate) fn unknown(&self, instruction: &Instruction) -> CompileError {
        self.error(instruction, "this combination of modifiers and types is unknown to this machine")
    }

    /// The operands, of which there must be `N`.
    pub(crate) fn operands<'i, const N: usize>(
        &self,
        instruction: &'i Instruction,
    ) -> Result<&'i [Operand; N], CompileError> {
        instruction.operands.as_slice().try_into().map_err(|_| {
            self.error(instruction, format!("found {} operands, expected {N}", instruction.operands.len()))
        })
    }

    pub(crate) fn lookup(&self, name: &str) -> Option<&Symbol> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).or_else(|| self.module.names.get(name))
    }

    pub(crate) fn symbol(&self, instruction: &Instruction, name: &str) -> Result<Symbol, CompileError> {
        self.lookup(name).cloned().ok_or_else(|| self.error(instruction, format!("`{name}` is not declared")))
    }

    pub(crate) fn new_value(&mut self, class: Class) -> Slot {
        self.values.push(Value { class, constant: None });
        (self.values.len() - 1) as Slot
    }

    /// A register that lives within one instruction: a temporary between the operations of a family.
    pub(crate) fn temporary(&mut self, ty: Type) -> Slot {
        self.new_value(Class::of(ty))
    }

    /// Notes that the operation being built reads `slot` (for temporaries; `read` notes it itself).
    pub(crate) fn reads(&mut self, slot: Slot) -> Slot {
        self.reads.push(slot);
        slot
    }

    /// Notes that the operation being built writes `slot`.
    pub(crate) fn writes(&mut self, slot: Slot) -> Slot {
        self.writes.push(slot);
        slot
    }

    pub(super) fn constant_slot(&mut self, class: Class, constant: Constant) -> Slot {
        if let Some(slot) = self.constants.get(&(class, constant)) {
            return *slot;
        }
        self.values.push(Value { class, constant: Some(constant) });
        let slot = (self.values.len() - 1) as Slot;
        self.constants.insert((class, constant), slot);
        slot
    }

    /// The condition code of `add.cc` and its kin: one predicate per function.
    pub(crate) fn carry(&mut self) -> Slot {
        if let Some(slot) = self.carry {
            return slot;
        }
        let slot = self.new_value(Class::Predicate);
        self.carry = Some(slot);
        slot
    }

    /// A slot that holds `bits` in every lane, of the register class of `ty`.
    pub(crate) fn constant(&mut self, ty: Type, bits: u128) -> Slot {
        self.constant_slot(Class::of(ty), Constant::Bits(bits))
    }

    /// A source operand of type `ty`: a register of exactly that many bits, or an immediate.
    pub(crate) fn read(&mut self, i: &Instruction, operand: &Operand, ty: Type) -> Result<Slot, CompileError> {
        let (slot, found) = self.read_any(i, operand, ty)?;
        if found.bits() != ty.bits() {
            return Err(self.error(i, format!("an operand is .{found}, expected {} bits for .{ty}", ty.bits())));
        }
        Ok(slot)
    }

    /// A source operand whose register may be wider than `ty` (`st`, `cvt`): the slot and the register's type.
    pub(crate) fn read_any(
        &mut self,
        i: &Instruction,
        operand: &Operand,
        ty: Type,
    ) -> Result<(Slot, Type), CompileError> {
        let (slot, found) = self.source(i, operand, ty)?;
        if found.bits() < ty.bits() {
            return Err(self.error(i, format!("an operand is .{found}, too narrow for .{ty}")));
        }
        self.reads.push(slot);
        Ok((slot, found))
    }

    fn source(&mut self, i: &Instruction, operand: &Operand, ty: Type) -> Result<(Slot, Type), CompileError> {
        let wants_float = |b: &Self| b.error(i, format!("a floating-point constant where .{ty} is wanted"));
        if let Some(special) = self.special(operand) {
            let slot = self.special_value(special);
            let found = if ty.bits() < special.ty().bits() { ty } else { special.ty() };
            return Ok((slot, found));
        }
        match operand {
            Operand::Name(name) => match self.symbol(i, name)? {
                Symbol::Register { slot, ty } => Ok((slot, ty)),
                Symbol::Vector { .. } => {
                    Err(self.error(i, format!("`{name}` is a vector register, expected a scalar")))
                }
                other => self.address_constant(i, &other, name, 0).map(|slot| (slot, Type::B64)),
            },
            Operand::Offset { name, offset } => {
                let symbol = self.symbol(i, name)?;
                self.address_constant(i, &symbol, name, *offset).map(|slot| (slot, Type::B64))
            }
            Operand::Component { name, component } => match self.symbol(i, name)? {
                Symbol::Vector { slots, ty } if usize::from(*component) < slots.len() => {
                    Ok((slots[usize::from(*component)], ty))
                }
                _ => Err(self.error(i, format!("`{name}` is not a vector register with component {component}"))),
            },
            Operand::Integer { value, .. } => {
                let mask = if ty.bits() >= 128 { u128::MAX } else { (1u128 << ty.bits()) - 1 };
                Ok((self.constant(ty, *value as u128 & mask), ty))
            }
            Operand::Float(float) => {
                let bits = match (ty.bits(), float) {
                    (32, Float::Single(bits)) => u128::from(*bits),
                    (32, Float::Double(_)) if matches!(ty, Type::F32 | Type::B32) => {
                        u128::from((float.value() as f32).to_bits())
                    }
                    (64, _) => u128::from(float.value().to_bits()),
                    _ => return Err(wants_float(self)),
                };
                Ok((self.constant(ty, bits), ty))
            }
            other => Err(self.error(i, format!("`{other:?}` cannot be a scalar source"))),
        }
    }

    /// The special register that an operand names, if it does.
    fn special(&self, operand: &Operand) -> Option<Special> {
        match operand {
            Operand::Name(name) if self.lookup(name).is_none() => Special::named(name),
            Operand::Component { name, component } if self.lookup(name).is_none() => {
                Special::named(&format!("{name}.{}", ["x", "y", "z", "w"].get(usize::from(*component))?))
            }
            _ => None,
        }
    }

    /// An operation that puts a special register's value into a temporary, before the one being built.
    fn special_value(&mut self, special: Special) -> Slot {
        let pending = (std::mem::take(&mut self.reads), std::mem::take(&mut self.writes));
        let slot = self.temporary(special.ty());
        self.writes.push(slot);
        let mut op = Op::new(special.exec());
        op.d = slot;
        op.imm = special.number();
        self.emit(op);
        (self.reads, self.writes) = pending;
        slot
    }

    /// A destination of type `ty`: a register of exactly that many bits, or `_`.
    pub(crate) fn write(&mut self, i: &Instruction, operand: &Operand, ty: Type) -> Result<Slot, CompileError> {
        let (slot, found) = self.write_any(i, operand, ty)?;
        if found.bits() != ty.bits() {
            return Err(self.error(i, format!("the destination is .{found}, expected {} bits for .{ty}", ty.bits())));
        }
        Ok(slot)
    }

    /// A destination whose register may be wider than `ty` (`ld`, `cvt`): the slot and the register's type.
    pub(crate) fn write_any(
        &mut self,
        i: &Instruction,
        operand: &Operand,
        ty: Type,
    ) -> Result<(Slot, Type), CompileError> {
        let (slot, found) = match operand {
            Operand::Name(name) if name == "_" => (self.new_value(Class::of(ty)), ty),
            Operand::Name(name) => match self.symbol(i, name)? {
                Symbol::Register { slot, ty } => (slot, ty),
                _ => return Err(self.error(i, format!("`{name}` is not a register that can be written"))),
            },
            Operand::Component { name, component } => match self.symbol(i, name)? {
                Symbol::Vector { slots, ty } if usize::from(*component) < slots.len() => {
                    (slots[usize::from(*component)], ty)
                }
                _ => return Err(self.error(i, format!("`{name}` is not a vector register"))),
            },
            other => return Err(self.error(i, format!("`{other:?}` cannot be a destination"))),
        };
        if found.bits() < ty.bits() {
            return Err(self.error(i, format!("the destination is .{found}, too narrow for .{ty}")));
        }
        self.writes.push(slot);
        Ok((slot, found))
    }

    /// The elements of `{a, b, …}`, of a vector register, or the one operand itself.
    pub(crate) fn elements(&self, i: &Instruction, operand: &Operand) -> Result<Vec<Operand>, CompileError> {
        Ok(match operand {
            Operand::Vector(elements) => elements.clone(),
            Operand::Name(name) => match self.lookup(name) {
                Some(Symbol::Vector { slots, .. }) => {
                    (0..slots.len()).map(|k| Operand::Component { name: name.clone(), component: k as u8 }).collect()
                }
                _ => vec![operand.clone()],
            },
            Operand::Component { .. } | Operand::Integer { .. } | Operand::Float(_) => vec![operand.clone()],
            other => return Err(self.error(i, format!("`{other:?}` is not a register or a vector"))),
        })
    }

    /// A predicate source, and whether it is negated. Immediates 0 and 1 are constants.
    pub(crate) fn read_predicate(&mut self, i: &Instruction, operand: &Operand) -> Result<(Slot, bool), CompileError> {
        let (operand, negated) = match operand {
            Operand::Not(name) => (&Operand::Name(name.clone()), true),
            other => (other, false),
        };
        if let Operand::Integer { value, .. } = operand {
            let bits = if *value != 0 { u128::from(u32::MAX) } else { 0 };
            return Ok((self.constant(Type::Pred, bits), negated));
        }
        Ok((self.read(i, operand, Type::Pred)?, negated))
    }

    /// A predicate destination.
    pub(crate) fn write_predicate(&mut self, i: &Instruction, operand: &Operand) -> Result<Slot, CompileError> {
        self.write(i, operand, Type::Pred)
    }

    /// The type of a register operand, if it is one.
    pub(crate) fn register_type(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Name(name) => match self.lookup(name)? {
                Symbol::Register { ty, .. } => Some(*ty),
                _ => None,
            },
            Operand::Component { name, .. } => match self.lookup(name)? {
                Symbol::Vector { ty, .. } => Some(*ty),
                _ => None,
            },
            _ => None,
        }
    }

    /// An address `[…]` in a space (`None`: generic).
    pub(crate) fn place(
        &mut self,
        i: &Instruction,
        operand: &Operand,
        space: Option<Space>,
    ) -> Result<Place, CompileError> {
        let Operand::Address(Address { base, offset, rest }) = operand else {
            return Err(self.error(i, "an address in brackets is expected"));
        };
        if !rest.is_empty() {
            return Err(self.error(i, "tensor coordinates belong to bulk tensor copies, which are not modelled"));
        }
        self.place_of(i, base, *offset, space)
    }

    fn place_of(
        &mut self,
        i: &Instruction,
        base: &AddressBase,
        offset: i64,
        space: Option<Space>,
    ) -> Result<Place, CompileError> {
        match base {
            AddressBase::Absolute(address) => {
                let slot = self.constant(Type::U64, u128::from(*address));
                self.reads.push(slot);
                Ok(Place::Register { slot, bits: 64, offset })
            }
            AddressBase::Name(name) => match self.symbol(i, name)? {
                Symbol::Register { slot, ty } if matches!(ty.bits(), 32 | 64) => {
                    self.reads.push(slot);
                    Ok(Place::Register { slot, bits: ty.bits(), offset })
                }
                Symbol::KernelParam { offset: start } => Ok(Place::KernelParam { offset: i64::from(start) + offset }),
                Symbol::Frame { offset: start, .. } => Ok(Place::Frame { offset: i64::from(start) + offset }),
                symbol @ (Symbol::Shared(_) | Symbol::Variable(_)) => {
                    // In an instruction of a space a name is an address of that space; in a generic one a generic address.
                    let generic = space.is_none();
                    let constant = match symbol {
                        Symbol::Shared(index) => Constant::Shared { index, offset: 0, generic },
                        Symbol::Variable(index) => Constant::Variable { index, offset: 0 },
                        _ => return Err(self.unknown(i)),
                    };
                    let slot = self.constant_slot(Class::Word64, constant);
                    self.reads.push(slot);
                    Ok(Place::Register { slot, bits: 64, offset })
                }
                _ => Err(self.error(i, format!("`{name}` is not a register or variable that can be addressed"))),
            },
        }
    }

    /// The address of a variable as a value in its own space.
    fn address_constant(
        &mut self,
        i: &Instruction,
        symbol: &Symbol,
        name: &str,
        offset: i64,
    ) -> Result<Slot, CompileError> {
        let constant = match symbol {
            Symbol::Shared(index) => Constant::Shared { index: *index, offset, generic: false },
            Symbol::Variable(index) => Constant::Variable { index: *index, offset },
            Symbol::Function(index) => Constant::Function { index: *index },
            Symbol::KernelParam { offset: start } => {
                Constant::Bits(crate::memory::PARAM_WINDOW.wrapping_add_signed(i64::from(*start) + offset).into())
            }
            Symbol::Frame { offset: start, .. } => {
                // Relative to the frame: an operation adds where the frame lies.
                let slot = self.new_value(Class::Word64);
                let pending = (std::mem::take(&mut self.reads), std::mem::take(&mut self.writes));
                self.writes.push(slot);
                let mut op = Op::new(crate::ops::control::frame_address());
                op.d = slot;
                op.imm = (i64::from(*start) + offset) as u64;
                self.emit(op);
                (self.reads, self.writes) = pending;
                return Ok(slot);
            }
            _ => return Err(self.error(i, format!("`{name}` cannot be an operand here"))),
        };
        Ok(self.constant_slot(Class::Word64, constant))
    }

    /// Appends an operation with the reads and writes noted since the last one.
    pub(crate) fn emit(&mut self, op: Op) {
        self.push(op, Vec::new(), Control::None, false);
    }

    /// Appends an operation with further operands (`op.wide` and `op.count` are set here).
    pub(crate) fn emit_wide(&mut self, op: Op, wide: Vec<Slot>) {
        self.push(op, wide, Control::None, false);
    }

    /// Appends an operation that may return [`crate::machine::op::Flow::Suspend`] or [`crate::machine::op::Flow::Jump`]
    /// to itself (barriers, warp-wide instructions): a guard becomes a branch around it.
    pub(crate) fn emit_suspending(&mut self, op: Op, wide: Vec<Slot>) {
        self.push(op, wide, Control::None, true);
    }

    pub(super) fn push(&mut self, mut op: Op, wide: Vec<Slot>, control: Control, suspends: bool) {
        op.instruction = (self.instructions.len().max(1) - 1) as u32;
        let reads = std::mem::take(&mut self.reads);
        let writes = std::mem::take(&mut self.writes);
        self.drafts.push(Draft { op, wide, reads, writes, control, suspends, partial: false });
    }

    /// Appends `d = f(…)` for operands already read and written.
    pub(crate) fn emit_map(&mut self, exec: crate::machine::op::Exec, d: Slot, sources: &[Slot]) {
        let mut op = Op::new(exec);
        op.d = d;
        op.a = sources.first().copied().unwrap_or(NO_SLOT);
        op.b = sources.get(1).copied().unwrap_or(NO_SLOT);
        op.c = sources.get(2).copied().unwrap_or(NO_SLOT);
        let is_constant = |slot: Slot| self.values.get(slot as usize).is_some_and(|value| value.constant.is_some());
        op.exec = exec.for_constants(is_constant(op.b), is_constant(op.c));
        self.emit(op);
    }

    /// `opcode d, a, …` where all sources have type `source` and the destination `destination`: the common case.
    pub(crate) fn map_instruction(
        &mut self,
        i: &Instruction,
        exec: crate::machine::op::Exec,
        destination: Type,
        sources: &[Type],
    ) -> Result<(), CompileError> {
        if i.operands.len() != sources.len() + 1 {
            return Err(self.error(i, format!("found {} operands, expected {}", i.operands.len(), sources.len() + 1)));
        }
        let mut slots = Vec::with_capacity(3);
        for (operand, ty) in i.operands[1..].iter().zip(sources) {
            slots.push(self.read(i, operand, *ty)?);
        }
        let d = self.write(i, &i.operands[0], destination)?;
        self.emit_map(exec, d, &slots);
        Ok(())
    }

    pub(super) fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }
}

/// The modifiers of an instruction, taken off one by one; what is left over is an error.
pub(crate) struct Modifiers<'i> {
    instruction: &'i Instruction,
    left: Vec<&'i str>,
}

impl<'i> Modifiers<'i> {
    /// All of an instruction's.
    pub(crate) fn of(instruction: &'i Instruction) -> Self {
        Self { instruction, left: instruction.modifiers.iter().map(String::as_str).collect() }
    }

    /// Takes `name` if it is there.
    pub(crate) fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|modifier| *modifier == name) {
            Some(at) => {
                self.left.remove(at);
                true
            }
            None => false,
        }
    }

    /// Takes the first modifier that is one of `names`.
    pub(crate) fn take_any(&mut self, names: &[&str]) -> Option<&'i str> {
        let at = self.left.iter().position(|modifier| names.contains(modifier))?;
        Some(self.left.remove(at))
    }

    /// Takes the last modifier if it is a type. Types stand last: `cvt.rn.f16.f32` gives F32, then F16.
    pub(crate) fn take_type(&mut self) -> Option<Type> {
        let ty = Type::parse(self.left.last()?)?;
        self.left.pop();
        Some(ty)
    }

    /// What is left.
    pub(crate) fn left(&self) -> &[&'i str] {
        &self.left
    }

    /// An error unless all have been taken.
    pub(crate) fn finish(self, builder: &Builder<'_>) -> Result<(), CompileError> {
        match self.left.first() {
            None => Ok(()),
            Some(modifier) => {
                Err(builder.error(self.instruction, format!("`.{modifier}` is not known here to this machine")))
            }
        }
    }
}
