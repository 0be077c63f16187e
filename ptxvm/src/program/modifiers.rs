//! The dotted parts behind an opcode.

use super::{CompileError, builder::Builder};
use crate::ptx::ast::{Instruction, Type};

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
