//! Which family decodes an arithmetic opcode.

use super::{bits, compare, convert, extended, float, half, integer, logic, moves, select};
use crate::{
    program::{CompileError, builder::Builder},
    ptx::ast::{Instruction, Type},
};
use std::borrow::Cow;

/// The family of a base mnemonic.
pub(crate) fn family(opcode: &str) -> Option<super::Decode> {
    Some(match opcode {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "abs" | "neg" | "min" | "max" | "tanh" | "ex2" => by_type,
        "addc" | "subc" | "madc" => extended::decode,
        "mul24" | "mad24" | "sad" | "rem" => integer::decode,
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "copysign" | "testp" => real,
        "popc" | "clz" | "bfind" | "fns" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" | "dp4a" | "dp2a" | "prmt" => {
            bits::decode
        }
        "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" => logic::decode,
        "setp" | "set" => comparison,
        "selp" | "slct" => select::decode,
        "mov" => moves::decode,
        "cvt" => conversion,
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vmad" | "vset" | "vadd2" | "vsub2"
        | "vavrg2" | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4" | "vsub4" | "vavrg4" | "vabsdiff4"
        | "vmin4" | "vmax4" | "vset4" => video,
        _ => return None,
    })
}

fn video(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    Err(b.error(i, "video instructions are not modelled"))
}

/// The instruction with its types last. The manual writes them so, but `add.f32.rn` and `setp.s32.lt` are accepted too.
fn types_last(i: &Instruction) -> Cow<'_, Instruction> {
    let is_type = |modifier: &String| Type::parse(modifier).is_some();
    if i.modifiers.is_sorted_by_key(is_type) {
        return Cow::Borrowed(i);
    }
    let mut ordered = i.clone();
    ordered.modifiers.sort_by_key(is_type);
    Cow::Owned(ordered)
}

fn real(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    float::decode(&types_last(i), b)
}

fn comparison(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    compare::decode(&types_last(i), b)
}

fn conversion(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    // Formats that are no types of registers stand last too: only what is known not to be one is moved.
    let trailing = ["rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "ftz", "sat"];
    match i.modifiers.last() {
        Some(last) if trailing.contains(&last.as_str()) => convert::decode(&types_last(i), b),
        _ => convert::decode(i, b),
    }
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
        (true, false) => half::decode(&types_last(i), b),
        (false, true) => float::decode(&types_last(i), b),
        (false, false) if matches!(i.opcode.as_str(), "mul" | "mad") => integer::decode(i, b),
        (false, false) => integer::decode(&types_last(i), b),
    }
}

#[cfg(test)]
mod tests {
    use crate::program::Program;

    /// What `ptxas` says about instructions one by one, over registers of every kind.
    fn compiles(instruction: &str) -> Result<(), String> {
        let text = format!(
            ".version 8.8
.target sm_100a
.address_size 64
.visible .entry k() {{
.reg .b8 %c<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .b64 %rd<9>; .reg .f64 %d<9>; .reg .pred %p<9>;
.reg .b128 %q<4>; .reg .f16x2 %hx<4>;
.shared .b32 sv;
{instruction}
ret;
}}
"
        );
        Program::compile(&text).map(|_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_ptxas_accepts_compiles() {
        let refused: Vec<String> = include_str!("arithmetic_accepted.txt")
            .lines()
            .filter_map(|line| compiles(line).err().map(|error| format!("{line}: {error}")))
            .collect();
        assert!(refused.is_empty(), "{}", refused.join("\n"));
    }

    #[test]
    fn what_ptxas_refuses_does_not_compile() {
        let accepted: Vec<&str> =
            include_str!("arithmetic_refused.txt").lines().filter(|line| compiles(line).is_ok()).collect();
        assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    }
}
