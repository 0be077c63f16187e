//! Address operands, and the addresses of variables.

use super::{CompileError, Constant, builder::Builder, draft::Class, symbols::Symbol};
use crate::{
    machine::op::{Op, Slot},
    ptx::ast::{Address, AddressBase, Instruction, Operand, Space, Type},
};

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

impl Builder<'_> {
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
    pub(super) fn address_constant(
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
}
