//! Which family decodes an arithmetic opcode.

use super::{bits, compare, convert, extended, float, half, integer, logic, moves, select};
use crate::{
    program::{CompileError, builder::Builder},
    ptx::ast::Instruction,
};

/// The family of a base mnemonic.
pub(crate) fn family(opcode: &str) -> Option<super::Decode> {
    Some(match opcode {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "abs" | "neg" | "min" | "max" | "tanh" | "ex2" => by_type,
        "addc" | "subc" | "madc" => extended::decode,
        "mul24" | "mad24" | "sad" | "rem" => integer::decode,
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "copysign" | "testp" => float::decode,
        "popc" | "clz" | "bfind" | "fns" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" | "dp4a" | "dp2a" | "prmt" => {
            bits::decode
        }
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" => logic::decode,
        "setp" | "set" => compare::decode,
        "selp" | "slct" => select::decode,
        "mov" => moves::decode,
        "cvt" => convert::decode,
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vmad" | "vset" | "vadd2" | "vsub2"
        | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4" | "vsub4" | "vavrg4" | "vabsdiff4"
        | "vmin4" | "vmax4" | "vset4" => video,
        _ => return None,
    })
}

fn video(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    Err(b.error(i, "video instructions are not modelled"))
}

/// Opcodes of several kinds of number.
fn by_type(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    if i.has("cc") {
        return extended::decode(i, b);
    }
    let is_half = ["f16", "f16x2", "bf16", "bf16x2"].iter().any(|ty| i.has(ty));
    let is_wide = ["f32", "f64", "f32x2"].iter().any(|ty| i.has(ty));
    match (is_half, is_wide) {
        (true, true) => float::decode_mixed(i, b),
        (true, false) => half::decode(i, b),
        (false, true) => float::decode(i, b),
        (false, false) => integer::decode(i, b),
    }
}
