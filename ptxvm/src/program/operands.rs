//! Operands as slots: registers, immediates, special registers, vectors and predicates.

use super::{CompileError, builder::Builder, draft::Class, symbols::Symbol};
use crate::{
    machine::op::{Op, Slot},
    ops::special::Special,
    ptx::ast::{Float, Instruction, Operand, Type},
};

impl Builder<'_> {
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
}
