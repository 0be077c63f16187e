//! A kernel as a flat list of instructions with scopes resolved.

use std::collections::HashMap;

use ptxvm::ptx::ast::{
    AddressBase, Block, Float, Initial, Instruction, Module, Operand, Space, Statement, Type, Variable,
};

use crate::{error::OracleError, modifiers::Modifiers};

/// One instruction with names made unique.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) instruction: Instruction,
    pub(crate) modifiers: Modifiers,
}

/// Where a variable lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    pub(crate) space: Space,
    /// From the start of its space.
    pub(crate) offset: u64,
}

/// A kernel ready to run.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    /// Label to index of a step.
    pub(crate) labels: HashMap<String, usize>,
    /// Register to width in bits.
    pub(crate) registers: HashMap<String, u32>,
    pub(crate) symbols: HashMap<String, Symbol>,
    /// Lists of `.branchtargets`.
    pub(crate) branch_targets: HashMap<String, Vec<String>>,
    pub(crate) constants: Vec<u8>,
    pub(crate) globals: Vec<u8>,
    pub(crate) shared_bytes: u64,
    pub(crate) local_bytes: u64,
    pub(crate) param_bytes: u64,
    scopes: Vec<HashMap<String, String>>,
    scope_count: usize,
}

impl Program {
    pub(crate) fn new(module: &Module, kernel: &str) -> Result<Self, OracleError> {
        let function = module.functions.iter().find(|function| function.name == kernel && function.is_kernel);
        let (function, body) = function
            .and_then(|function| function.body.as_ref().map(|body| (function, body)))
            .ok_or_else(|| OracleError::NoKernel(kernel.to_owned()))?;
        let mut program = Self::default();
        for variable in module.variables.iter().chain(&function.params) {
            program.declare(variable, &variable.name);
        }
        program.scopes.push(HashMap::new());
        program.block(body);
        Ok(program)
    }

    fn declare(&mut self, variable: &Variable, name: &str) {
        if variable.space == Space::Register {
            match variable.count {
                Some(count) => {
                    for index in 0..count {
                        self.registers.insert(format!("{name}{index}"), variable.ty.bits());
                    }
                }
                None => {
                    self.registers.insert(name.to_owned(), variable.ty.bits());
                }
            }
            return;
        }
        let bytes = variable.bytes().unwrap_or(0);
        let align = u64::from(variable.align.max(1));
        let place = |end: u64| end.next_multiple_of(align);
        let offset = match variable.space {
            Space::Shared => {
                let offset = place(self.shared_bytes);
                self.shared_bytes = offset + bytes;
                offset
            }
            Space::Local => {
                let offset = place(self.local_bytes);
                self.local_bytes = offset + bytes;
                offset
            }
            Space::Param => {
                let offset = place(self.param_bytes);
                self.param_bytes = offset + bytes;
                offset
            }
            Space::Const => append(&mut self.constants, place, bytes, variable),
            _ => append(&mut self.globals, place, bytes, variable),
        };
        self.symbols.insert(name.to_owned(), Symbol { space: variable.space, offset });
    }

    fn block(&mut self, block: &Block) {
        // Nested scopes get names of their own; the outermost keeps what was written.
        let suffix = if self.scope_count == 0 { String::new() } else { format!("@{}", self.scope_count) };
        self.scope_count += 1;
        for statement in &block.statements {
            let scope = self.scopes.last_mut().expect("a scope was pushed for this block");
            match statement {
                Statement::Variable(variable) => match variable.count {
                    Some(count) => {
                        for index in 0..count {
                            let name = format!("{}{index}", variable.name);
                            scope.insert(name.clone(), format!("{name}{suffix}"));
                            self.registers.insert(format!("{name}{suffix}"), variable.ty.bits());
                        }
                    }
                    None => {
                        let unique = format!("{}{suffix}", variable.name);
                        scope.insert(variable.name.clone(), unique.clone());
                        self.declare(variable, &unique);
                    }
                },
                Statement::Label { name, .. } | Statement::BranchTargets { name, .. } => {
                    scope.insert(name.clone(), format!("{name}{suffix}"));
                }
                _ => {}
            }
        }
        for statement in &block.statements {
            match statement {
                Statement::Label { name, .. } => {
                    self.labels.insert(self.resolve(name), self.steps.len());
                }
                Statement::BranchTargets { name, labels, .. } => {
                    let labels = labels.iter().map(|label| self.resolve(label)).collect();
                    self.branch_targets.insert(self.resolve(name), labels);
                }
                Statement::Instruction(instruction) => {
                    let mut instruction = instruction.clone();
                    if let Some(guard) = &mut instruction.guard {
                        guard.register = self.resolve(&guard.register);
                    }
                    for operand in &mut instruction.operands {
                        self.rename(operand);
                    }
                    let modifiers = Modifiers::of(&instruction);
                    self.steps.push(Step { instruction, modifiers });
                }
                Statement::Block(inner) => {
                    self.scopes.push(HashMap::new());
                    self.block(inner);
                    self.scopes.pop();
                }
                _ => {}
            }
        }
    }

    fn resolve(&self, name: &str) -> String {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).cloned().unwrap_or_else(|| name.to_owned())
    }

    fn rename(&self, operand: &mut Operand) {
        match operand {
            Operand::Name(name)
            | Operand::Not(name)
            | Operand::Offset { name, .. }
            | Operand::Component { name, .. } => *name = self.resolve(name),
            Operand::Address(address) => {
                if let AddressBase::Name(name) = &mut address.base {
                    *name = self.resolve(name);
                }
            }
            Operand::Vector(parts) => parts.iter_mut().for_each(|part| self.rename(part)),
            Operand::Pair(first, second) => {
                self.rename(first);
                self.rename(second);
            }
            Operand::Integer { .. } | Operand::Float(_) => {}
        }
    }
}

/// Places a variable with its initial bytes at the end of a space.
fn append(space: &mut Vec<u8>, place: impl Fn(u64) -> u64, bytes: u64, variable: &Variable) -> u64 {
    let offset = place(space.len() as u64);
    space.resize(offset as usize, 0);
    let size = variable.ty.bytes() as usize;
    for initial in &variable.initial {
        let bits: u128 = match initial {
            Initial::Integer(value) => *value as u128,
            Initial::Float(value) => float_bits(*value, variable.ty),
            Initial::Address { .. } => 0,
        };
        space.extend_from_slice(&bits.to_le_bytes()[..size]);
    }
    space.resize((offset + bytes) as usize, 0);
    offset
}

/// A floating-point constant as the bits of a type.
pub(crate) fn float_bits(value: Float, ty: Type) -> u128 {
    match (value, ty) {
        (Float::Single(bits), Type::F32 | Type::B32 | Type::F16x2 | Type::Bf16x2) => u128::from(bits),
        (_, Type::F64 | Type::B64) => u128::from(value.value().to_bits()),
        _ => u128::from((value.value() as f32).to_bits()),
    }
}
