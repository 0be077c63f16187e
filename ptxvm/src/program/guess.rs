//! Loads whose value is only a guess that a compare-and-swap checks.
//!
//! The loop that the CUDA programming guide builds other atomics from, and that CUDA's own headers use, starts with a plain load:
//!
//! ```text
//!     ld.global.u32 old, [a];
//! again:
//!     mov.b32 assumed, old;
//!     …
//!     atom.global.cas.b32 old, [a], assumed, wanted;
//! ```
//!
//! By the memory model that load races with the others' atomics. It does no harm: a value that is not there any more fails the
//! comparison. Such a load counts as `ld.relaxed.sys`, so that the monitor is silent about it and tells of races that matter.

use crate::ptx::ast::{AddressBase, Block, Instruction, Operand, Statement};
use std::collections::HashSet;

/// Which instructions of a function, counted in the order of the text, are such loads.
pub(super) fn guesses(body: &Block) -> HashSet<usize> {
    let mut instructions = Vec::new();
    flatten(body, &mut instructions);
    let swaps: Vec<Swap<'_>> = instructions.iter().filter_map(|i| Swap::of(i)).collect();
    if swaps.is_empty() {
        return HashSet::new();
    }
    let moves: Vec<(&str, &str)> = instructions.iter().filter_map(|i| moved(i)).collect();
    let loads = instructions.iter().enumerate().filter(|(_, i)| is_guess(i, &swaps, &moves));
    loads.map(|(number, _)| number).collect()
}

fn flatten<'a>(block: &'a Block, into: &mut Vec<&'a Instruction>) {
    for statement in &block.statements {
        match statement {
            Statement::Instruction(instruction) => into.push(instruction),
            Statement::Block(inner) => flatten(inner, into),
            _ => {}
        }
    }
}

/// A place by the names of the text: a register or variable, and bytes added.
type Place<'a> = (&'a str, i64);

fn place(operand: &Operand) -> Option<Place<'_>> {
    let Operand::Address(address) = operand else { return None };
    match &address.base {
        AddressBase::Name(name) => Some((name, address.offset)),
        AddressBase::Absolute(_) => None,
    }
}

fn register(operand: &Operand) -> Option<&str> {
    match operand {
        Operand::Name(name) => Some(name),
        _ => None,
    }
}

/// Bits of the type that ends an opcode.
fn bits(i: &Instruction) -> Option<&str> {
    i.modifiers.last().map(|ty| ty.trim_start_matches(|c: char| !c.is_ascii_digit()))
}

/// `atom.cas`
struct Swap<'a> {
    place: Place<'a>,
    bits: &'a str,
    assumed: &'a str,
}

impl<'a> Swap<'a> {
    fn of(i: &'a Instruction) -> Option<Self> {
        if i.opcode != "atom" || !i.modifiers.iter().any(|modifier| modifier == "cas") {
            return None;
        }
        let [_, at, assumed, ..] = i.operands.as_slice() else { return None };
        Some(Self { place: place(at)?, bits: bits(i)?, assumed: register(assumed)? })
    }
}

/// Where a move takes a register's value.
fn moved(i: &Instruction) -> Option<(&str, &str)> {
    let ([to, from], "mov") = (i.operands.as_slice(), i.opcode.as_str()) else { return None };
    Some((register(to)?, register(from)?))
}

fn is_guess(i: &Instruction, swaps: &[Swap<'_>], moves: &[(&str, &str)]) -> bool {
    let ("ld", [to, at]) = (i.opcode.as_str(), i.operands.as_slice()) else { return false };
    let (Some(to), Some(at), Some(bits)) = (register(to), place(at), bits(i)) else { return false };
    let candidates: Vec<&Swap<'_>> = swaps.iter().filter(|swap| swap.place == at && swap.bits == bits).collect();
    if candidates.is_empty() {
        return false;
    }
    // Every register that the value gets to.
    let mut holders = HashSet::from([to]);
    while let Some((to, _)) = moves.iter().find(|(to, from)| holders.contains(from) && !holders.contains(to)) {
        holders.insert(to);
    }
    candidates.iter().any(|swap| holders.contains(swap.assumed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::parse;

    fn of(body: &str) -> Vec<usize> {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %r<9>;\n\
             .reg .b64 %rd<9>;\n.reg .f32 %f<9>;\n.reg .pred %p<3>;\n{body}\nret;\n}}\n"
        );
        let module = parse(&text).expect("the text is PTX");
        let body = module.functions.iter().find_map(|function| function.body.as_ref()).expect("a kernel has a body");
        let mut found: Vec<usize> = guesses(body).into_iter().collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_load_that_a_swap_compares_with_is_a_guess() {
        // As NVRTC writes it: the old value goes round the loop in the register that was loaded.
        let loop_ = |place: &str, ty: &str| {
            format!(
                "ld.param.u64 %rd1, [p];\nld.global.u32 %r1, [{place}];\n$L:\nadd.s32 %r2, %r1, 1;\n\
                 atom.global.cas.{ty} %r3, [%rd1], %r1, %r2;\nsetp.ne.s32 %p1, %r1, %r3;\nmov.u32 %r1, %r3;\n@%p1 bra $L;"
            )
        };
        assert_eq!(of(&loop_("%rd1", "b32")), [1]);
        // Another place, another width: not what is compared.
        assert!(of(&loop_("%rd1+4", "b32")).is_empty());
        assert!(of(&loop_("%rd1", "b16")).is_empty());
        // Through moves, in inner blocks.
        let moved = "ld.global.u32 %r1, [%rd1];\nmov.b32 %r4, %r1;\n{\nmov.b32 %r5, %r4;\n\
                     atom.global.cas.b32 %r3, [%rd1], %r5, %r2;\n}";
        assert_eq!(of(moved), [0]);
    }

    #[test]
    fn a_load_whose_value_is_used_unchecked_is_none() {
        assert!(of("ld.global.u32 %r1, [%rd1];\natom.global.add.u32 %r3, [%rd1], %r1;").is_empty());
        assert!(of("ld.global.u32 %r1, [%rd1];\natom.global.cas.b32 %r3, [%rd1], 0, %r1;").is_empty());
        assert!(of("ld.global.u32 %r1, [%rd1];\natom.global.cas.b32 %r3, [%rd2], %r1, %r2;").is_empty());
    }
}
