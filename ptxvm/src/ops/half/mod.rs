//! Arithmetic over `.f16`, `.f16x2`, `.bf16` and `.bf16x2`: exact in single precision (or double) and rounded once.

pub(super) mod lanes;

use super::float::{
    approximate,
    rounding::{Bf16, F16, NAN16, sum_odd_single},
    stages::{finish, sources, stage, stage_if},
    take_rounding,
};
use crate::{
    machine::op::{Exec, map1},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};
use lanes::{Lanes, elementwise};

/// An operation over the bits of 16-bit numbers, made for one number or for both halves of a word.
macro_rules! halves {
    ($packed:expr, |$a:ident| $value:expr) => {
        if $packed {
            map1(|word: u32| {
                let low = {
                    let $a = word & 0xffff;
                    $value
                };
                let high = {
                    let $a = word >> 16;
                    $value
                };
                low | high << 16
            })
        } else {
            map1(|$a: u32| $value)
        }
    };
}

/// `yes` or `no`, without a branch.
#[inline(always)]
fn choose(condition: bool, yes: u32, no: u32) -> u32 {
    no ^ ((yes ^ no) & u32::from(condition).wrapping_neg())
}

/// The operations of one format.
struct Operations<H>(std::marker::PhantomData<H>);

impl<H: Format> Operations<H> {
    fn arithmetic(opcode: &str, packed: bool) -> Option<(Exec, usize)> {
        Some(match opcode {
            "add" => (elementwise::<H, _, 2>(packed, |a, b, _| a + b), 2),
            "sub" => (elementwise::<H, _, 2>(packed, |a, b, _| a - b), 2),
            "mul" => (H::product(false, packed), 2),
            "fma" => (H::product(true, packed), 3),
            _ => return None,
        })
    }

    /// Subnormals to zeros.
    fn flush(packed: bool) -> Exec {
        halves!(packed, |a| choose(a & H::EXPONENT == 0, a & 0x8000, a))
    }

    /// Into [0, 1], NaN to +0.
    fn saturate(packed: bool) -> Exec {
        halves!(packed, |a| choose((a & 0x8000 != 0) | (a > H::EXPONENT), 0, a.min(H::ONE)))
    }

    /// Negative numbers to +0; NaN stays the canonical one.
    fn relu(packed: bool) -> Exec {
        halves!(packed, |a| choose(a & 0x7fff > H::EXPONENT, NAN16, choose(a & 0x8000 != 0, 0, a)))
    }

    fn extreme(opcode: &str, nan: bool, magnitude: bool, packed: bool) -> Exec {
        use super::float::elementary::{extreme, extreme_magnitude};
        macro_rules! both {
            ($f:expr) => {
                elementwise::<H, _, 2>(packed, |a, b, _| $f(a, b))
            };
        }
        match (opcode == "max", nan, magnitude) {
            (false, false, false) => both!(extreme::<false, false>),
            (false, true, false) => both!(extreme::<false, true>),
            (false, false, true) => both!(extreme_magnitude::<false, false>),
            (false, true, true) => both!(extreme_magnitude::<false, true>),
            (true, false, false) => both!(extreme::<true, false>),
            (true, true, false) => both!(extreme::<true, true>),
            (true, false, true) => both!(extreme_magnitude::<true, false>),
            (true, true, true) => both!(extreme_magnitude::<true, true>),
        }
    }

    fn tanh(packed: bool) -> Exec {
        elementwise::<H, _, 1>(packed, |a, _, _| approximate::tanh(a))
    }

    fn ex2(packed: bool) -> Exec {
        elementwise::<H, _, 1>(packed, |a, _, _| approximate::ex2::<false>(a))
    }
}

/// What the formats do in different ways.
trait Format: Lanes {
    /// `a · b`, or with `sum` `a · b + c`, rounded once.
    fn product(sum: bool, packed: bool) -> Exec;
}

impl Format for F16 {
    /// Products of 11-bit numbers are exact in single precision.
    fn product(sum: bool, packed: bool) -> Exec {
        if sum {
            elementwise::<Self, _, 3>(packed, |a, b, c| sum_odd_single(a * b, c))
        } else {
            elementwise::<Self, _, 2>(packed, |a, b, _| a * b)
        }
    }
}

impl Format for Bf16 {
    fn product(sum: bool, packed: bool) -> Exec {
        lanes::product(sum, packed)
    }
}

/// One of the operations, for the format of `ty`.
macro_rules! of_format {
    ($ty:expr, $name:ident($($argument:expr),*)) => {
        if matches!($ty, Type::F16 | Type::F16x2) {
            Operations::<F16>::$name($($argument),*)
        } else {
            Operations::<Bf16>::$name($($argument),*)
        }
    };
}

/// `add sub mul fma neg abs min max tanh ex2` over 16-bit numbers.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let (packed, is_f16) = match ty {
        Type::F16 => (false, true),
        Type::F16x2 => (true, true),
        Type::Bf16 => (false, false),
        Type::Bf16x2 => (true, false),
        _ => return Err(b.unknown(i)),
    };
    match i.opcode.as_str() {
        "add" | "sub" | "mul" | "fma" => arithmetic(i, b, modifiers, ty, packed),
        "neg" | "abs" => {
            let ftz = is_f16 && modifiers.take("ftz");
            modifiers.finish(b)?;
            let slots = sources(b, i, ty, 1)?;
            let source = stage_if(b, ftz, || of_format!(ty, flush(packed)), ty, slots[0]);
            let exec = match (i.opcode.as_str(), packed) {
                ("neg", false) => map1(|a: u32| a ^ 0x8000),
                ("neg", true) => map1(|a: u32| a ^ 0x8000_8000),
                (_, false) => map1(|a: u32| a & 0x7fff),
                (_, true) => map1(|a: u32| a & 0x7fff_7fff),
            };
            finish(b, i, exec, &i.operands[0], ty, &[source])
        }
        "min" | "max" => {
            let ftz = is_f16 && modifiers.take("ftz");
            let nan = modifiers.take("NaN");
            let xor_sign = modifiers.take("xorsign");
            let magnitude = xor_sign && modifiers.take("abs");
            modifiers.finish(b)?;
            if xor_sign && !magnitude {
                return Err(b.error(i, ".xorsign stands before .abs only"));
            }
            let mut slots = sources(b, i, ty, 2)?;
            for slot in &mut slots {
                *slot = stage_if(b, ftz, || of_format!(ty, flush(packed)), ty, *slot);
            }
            let exec = of_format!(ty, extreme(&i.opcode, nan, magnitude, packed));
            finish(b, i, exec, &i.operands[0], ty, &slots)
        }
        "tanh" | "ex2" => {
            let approx = modifiers.take("approx");
            let ftz = i.opcode == "ex2" && !is_f16 && modifiers.take("ftz");
            modifiers.finish(b)?;
            if !approx {
                return Err(b.error(i, ".approx is required"));
            }
            if i.opcode == "ex2" && !is_f16 && !ftz {
                return Err(b.error(i, ".ftz is required with this type"));
            }
            let exec = if i.opcode == "tanh" { of_format!(ty, tanh(packed)) } else { of_format!(ty, ex2(packed)) };
            let slots = sources(b, i, ty, 1)?;
            let source = stage_if(b, ftz, || of_format!(ty, flush(packed)), ty, slots[0]);
            if !ftz {
                return finish(b, i, exec, &i.operands[0], ty, &[source]);
            }
            let result = stage(b, exec, ty, &[source]);
            finish(b, i, of_format!(ty, flush(packed)), &i.operands[0], ty, &[result])
        }
        _ => Err(b.unknown(i)),
    }
}

fn arithmetic(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut modifiers: Modifiers<'_>,
    ty: Type,
    packed: bool,
) -> Result<(), CompileError> {
    let is_f16 = matches!(ty, Type::F16 | Type::F16x2);
    let is_fma = i.opcode == "fma";
    match take_rounding(&mut modifiers) {
        Some(super::float::rounding::RN) => {}
        None if !is_fma => {}
        None => return Err(b.error(i, "a rounding modifier is required")),
        Some(_) => return Err(b.error(i, "16-bit numbers are rounded to nearest only")),
    }
    if modifiers.left().contains(&"oob") {
        return Err(b.error(i, ".oob is not modelled: the manual does not state the bits of an out-of-bounds NaN"));
    }
    let ftz = is_f16 && modifiers.take("ftz");
    let sat = is_f16 && modifiers.take("sat");
    let relu = is_fma && !sat && modifiers.take("relu");
    modifiers.finish(b)?;
    let (exec, count) = of_format!(ty, arithmetic(&i.opcode, packed)).ok_or_else(|| b.unknown(i))?;
    let mut slots = sources(b, i, ty, count)?;
    for slot in &mut slots {
        *slot = stage_if(b, ftz, || of_format!(ty, flush(packed)), ty, *slot);
    }
    // The last operation writes the destination; those before it temporaries.
    let mut steps = vec![exec];
    if ftz {
        steps.push(of_format!(ty, flush(packed)));
    }
    if sat {
        steps.push(of_format!(ty, saturate(packed)));
    }
    if relu {
        steps.push(of_format!(ty, relu(packed)));
    }
    let last = steps.pop().ok_or_else(|| b.unknown(i))?;
    for step in steps {
        slots = vec![stage(b, step, ty, &slots)];
    }
    finish(b, i, last, &i.operands[0], ty, &slots)
}
