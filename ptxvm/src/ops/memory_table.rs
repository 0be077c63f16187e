//! Which opcodes work on memory, and who decodes them.

use super::{async_copy, atomic, cache, fence, mbarrier, memory, stack};
use crate::{
    program::{CompileError, builder::Builder},
    ptx::ast::Instruction,
};

/// The decoder of an opcode, if it belongs to memory.
pub(crate) fn family(opcode: &str) -> Option<super::Decode> {
    Some(match opcode {
        "ld" | "ldu" => memory::decode_load,
        "st" => memory::decode_store,
        "atom" | "red" => atomic::decode,
        "cp" => async_copy::decode,
        "mbarrier" => mbarrier::decode,
        "fence" | "membar" => fence::decode,
        "cvta" => memory::address::convert,
        "isspacep" => memory::address::is_space,
        "mapa" => memory::address::map_to_rank,
        "getctarank" => memory::address::rank_of,
        "prefetch" | "prefetchu" | "applypriority" | "discard" => cache::decode,
        "createpolicy" => cache::create_policy,
        "multimem" => refuse,
        "tensormap" => refuse,
        "alloca" | "stacksave" | "stackrestore" => stack::decode,
        _ => return None,
    })
}

fn refuse(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    Err(b.error(i, "this is not modelled"))
}
