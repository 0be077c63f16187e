//! Opcodes, a file per family: what each may look like, and what it does.

mod arithmetic_table;
pub(crate) mod async_copy;
mod atomic;
mod barrier;
mod bits;
mod cache;
mod call;
mod compare;
pub(crate) mod control;
mod convert;
mod extended;
mod fence;
mod float;
mod half;
mod integer;
mod logic;
mod matrix;
mod mbarrier;
pub(crate) mod memory;
mod memory_table;
mod moves;
mod select;
pub(crate) mod special;
mod stack;
mod system;
mod vote;

use crate::{
    program::{CompileError, builder::Builder},
    ptx::ast::Instruction,
};

/// Decodes one instruction into operations.
type Decode = fn(&Instruction, &mut Builder<'_>) -> Result<(), CompileError>;

/// Decodes an instruction of any family.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let family = control_family(&i.opcode)
        .or_else(|| memory_table::family(&i.opcode))
        .or_else(|| matrix::family(&i.opcode))
        .or_else(|| arithmetic_table::family(&i.opcode));
    match family {
        Some(decode) => decode(i, b),
        None => Err(b.error(i, "this opcode is not modelled")),
    }
}

fn control_family(opcode: &str) -> Option<Decode> {
    Some(match opcode {
        "brx" | "ret" | "exit" | "trap" | "brkpt" => control::decode,
        "call" => call::decode,
        "bar" | "barrier" => barrier::decode,
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => vote::decode,
        "nanosleep" | "pmevent" | "setmaxnreg" | "griddepcontrol" => system::decode,
        _ => return None,
    })
}
