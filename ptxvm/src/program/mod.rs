//! From a syntax tree to operations that the machine runs.
//!
//! `compile` walks the functions of a module: names become slots and labels, each opcode's family (`crate::ops`) appends
//! operations; `flow` finds where lanes that part meet again; `allocate` gives registers their places.

mod address;
mod allocate;
pub(crate) mod builder;
mod compile;
pub(crate) mod draft;
mod flow;
mod guess;
mod link;
#[cfg(test)]
mod link_tests;
mod modifiers;
mod operands;
pub(crate) mod symbols;
mod variables;

pub use symbols::{GlobalVariable, SharedVariable};

use crate::{
    machine::op::{Op, Slot},
    ptx::{
        ParseError,
        ast::{SourceLine, Type},
    },
};
use std::{collections::HashMap, sync::Arc};
use thiserror::Error;

/// Why a module cannot be run.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("line {line}: `{opcode}` in {function}: {reason}")]
pub struct CompileError {
    /// Line in the PTX text.
    pub line: u32,
    /// The function or kernel.
    pub function: String,
    /// The instruction.
    pub opcode: String,
    /// What was found and what was expected.
    pub reason: String,
}

/// Why a text does not become a program.
#[derive(Clone, Debug, Error)]
pub enum ProgramError {
    /// The text is not PTX.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The text is PTX that this machine does not run.
    #[error(transparent)]
    Compile(#[from] CompileError),
}

/// What a register or constant slot holds before the first operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u128),
    /// Address of a `.global` or `.const` variable (generic and own space are the same).
    Variable {
        index: u32,
        offset: i64,
    },
    /// Address of a `.shared` variable.
    Shared {
        index: u32,
        offset: i64,
        generic: bool,
    },
    /// A function's address: what indirect calls take.
    Function {
        index: u32,
    },
}

/// A module, compiled; independent of devices.
#[derive(Debug)]
pub struct Program {
    /// The PTX texts that were linked; mostly one.
    pub texts: Vec<Arc<str>>,
    /// PTX version, 83 for 8.3.
    pub version: u32,
    /// Architecture, 80 for `sm_80`.
    pub target: u32,
    /// `.file` names by index.
    pub files: HashMap<u32, String>,
    /// `.global` and `.const` variables.
    pub variables: Vec<GlobalVariable>,
    /// `.shared` variables of the module and of all functions.
    pub shared: Vec<SharedVariable>,
    pub(crate) functions: Vec<FunctionCode>,
    /// What each text's names stand for, for initialisers.
    pub(crate) names: Vec<HashMap<String, symbols::Symbol>>,
}

/// One parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Offset into the parameter buffer.
    pub offset: u32,
    /// Size in bytes.
    pub bytes: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// What a driver tells about a kernel.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Its name.
    pub name: String,
    /// Its parameters.
    pub params: Vec<ParamInfo>,
    /// Bytes of all parameters.
    pub param_bytes: u32,
    /// Bytes of its static shared memory.
    pub static_shared: u32,
    /// Bytes of `.local` variables per thread, those of functions it calls included (recursion counted once).
    pub local_bytes: u32,
    /// Bytes of stack per thread that its frame and those of functions it calls take here (recursion counted once).
    pub stack_bytes: u32,
    /// Bytes of the module's `.const` variables.
    pub const_bytes: u32,
    /// 32-bit registers per thread that this machine's allocation needs: an estimate of what `ptxas` would use.
    pub registers: u32,
    /// Threads per block at most.
    pub max_threads: u32,
    /// `.reqntid`.
    pub required_threads: Option<[u32; 3]>,
    /// PTX version of the module, 83 for 8.3.
    pub ptx_version: u32,
    /// Architecture of the module, 80 for `sm_80`.
    pub target: u32,
}

/// What is known of an instruction beside what it does.
#[derive(Clone, Debug)]
pub struct InstructionInfo {
    /// `mad.lo.s32`.
    pub opcode: String,
    /// Which of the texts linked it stands in.
    pub text: u32,
    /// Line in that text.
    pub line: u32,
    /// The `.loc` in force.
    pub source: Option<SourceLine>,
}

/// A function, compiled.
#[derive(Debug)]
pub(crate) struct FunctionCode {
    pub(crate) name: String,
    pub(crate) is_kernel: bool,
    /// Other modules see it.
    pub(crate) is_visible: bool,
    pub(crate) ops: Vec<Op>,
    pub(crate) wide: Vec<Slot>,
    /// Bytes of the register file, constants included.
    pub(crate) register_bytes: u32,
    /// Where each constant lies.
    pub(crate) constants: Vec<(draft::Class, Slot, Constant)>,
    /// Bytes of a frame's local memory.
    pub(crate) local_bytes: u32,
    /// Bytes of `.local` variables among them.
    pub(crate) local_variables: u32,
    pub(crate) instructions: Vec<InstructionInfo>,
    pub(crate) tables: Vec<Vec<u32>>,
    pub(crate) calls: Vec<CallSite>,
    /// How it is called: places of its formal parameters and results.
    pub(crate) params: Vec<Formal>,
    pub(crate) returns: Vec<Formal>,
    /// Shared variables it names, and functions it may call (for the layout of a kernel's shared memory).
    pub(crate) shared_used: Vec<u32>,
    pub(crate) callees: Vec<u32>,
    pub(crate) calls_indirectly: bool,
    /// For kernels.
    pub(crate) info: Option<KernelInfo>,
}

/// A formal parameter or result of a function, or an actual one at a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Formal {
    /// Bytes of the frame's local memory.
    Frame { offset: u32, bytes: u32 },
    /// A register.
    Register { slot: Slot, ty: Type },
}

/// A call.
#[derive(Clone, Debug)]
pub(crate) struct CallSite {
    /// `None`: through a register (`Op::a`).
    pub(crate) target: Option<u32>,
    pub(crate) arguments: Vec<Formal>,
    pub(crate) returns: Vec<Formal>,
}

impl Program {
    /// Parses and compiles PTX text.
    ///
    /// # Errors
    /// Text that is not PTX, or holds an instruction that this machine does not run.
    pub fn compile(text: &str) -> Result<Self, ProgramError> {
        Self::link(&[text])
    }

    /// Several texts as one program: `.extern` symbols of one are found in the others.
    ///
    /// # Errors
    /// As [`Self::compile`], and symbols defined twice or nowhere.
    pub fn link(texts: &[&str]) -> Result<Self, ProgramError> {
        let modules = texts.iter().map(|text| crate::ptx::parse(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(compile::program(texts, &modules)?)
    }

    /// The kernels' descriptions, in the order of the text.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.functions.iter().filter_map(|function| function.info.as_ref())
    }
}
