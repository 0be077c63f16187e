//! What a family of opcodes (`crate::ops`) sees of the function being compiled: names become slots, operations are
//! appended, and who reads and writes what is noted for the allocation of slots.

use super::{CompileError, Constant, draft::*, symbols::*};
use crate::{
    machine::op::{NO_SLOT, Op, Slot},
    ptx::ast::{Instruction, Operand, Type},
};
use std::collections::{HashMap, HashSet};

pub(crate) use super::{address::Place, modifiers::Modifiers};

/// The function being compiled.
pub(crate) struct Builder<'a> {
    pub(crate) module: &'a ModuleSymbols,
    pub(crate) function: &'a str,
    pub(crate) scopes: Vec<HashMap<String, Symbol>>,
    pub(crate) values: Vec<Value>,
    pub(crate) constants: HashMap<(Class, Constant), Slot>,
    pub(crate) drafts: Vec<Draft>,
    pub(crate) labels: u32,
    /// Where the frame's next variable may lie: blocks that have ended gave theirs back.
    pub(crate) local_bytes: u32,
    /// The most that the frame needs at once.
    pub(crate) frame_bytes: u32,
    pub(crate) local_variables: u32,
    pub(crate) instructions: Vec<super::InstructionInfo>,
    /// Numbers of the loads that are but guesses of a compare-and-swap (`super::guess`).
    pub(super) guesses: HashSet<usize>,
    pub(crate) calls: Vec<super::CallSite>,
    pub(crate) tables: Vec<Vec<Label>>,
    carry: Option<Slot>,
    pub(super) reads: Vec<Slot>,
    pub(super) writes: Vec<Slot>,
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
            frame_bytes: 0,
            local_variables: 0,
            instructions: Vec::new(),
            guesses: HashSet::new(),
            calls: Vec::new(),
            tables: Vec::new(),
            carry: None,
            reads: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Whether the instruction that is decoded is a load whose value a compare-and-swap checks.
    pub(crate) fn is_guess(&self) -> bool {
        self.guesses.contains(&(self.instructions.len() - 1))
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
