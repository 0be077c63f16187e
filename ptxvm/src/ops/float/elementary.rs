//! `neg abs min max copysign testp` over single and double precision.

use super::{
    rounding::*,
    stages::{finish, sources, stage, stage_if},
};
use crate::{
    machine::op::{Exec, map1, map2, test2},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// The lesser (or with `MAX` the greater) of two, −0 before +0. A NaN loses against a number, or with `NAN` wins.
#[inline(always)]
pub(crate) fn extreme<const MAX: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let first = if MAX { a > b } else { a < b };
    let bits = if MAX { a.to_bits() & b.to_bits() } else { a.to_bits() | b.to_bits() };
    let value = if first { a } else { b };
    let value = if a == b { f32::from_bits(bits) } else { value };
    if NAN {
        return if a.is_nan() | b.is_nan() { f32::from_bits(NAN32) } else { value };
    }
    let value = if b.is_nan() { a } else { value };
    canonical(value)
}

#[inline(always)]
fn extreme64<const MAX: bool>(a: f64, b: f64) -> f64 {
    let first = if MAX { a > b } else { a < b };
    let bits = if MAX { a.to_bits() & b.to_bits() } else { a.to_bits() | b.to_bits() };
    let value = if first { a } else { b };
    let value = if a == b { f64::from_bits(bits) } else { value };
    let value = if b.is_nan() { a } else { value };
    if value.is_nan() { f64::from_bits(0x7fff_ffff_ffff_ffff) } else { value }
}

/// The extreme of the magnitudes, with the exclusive or of the signs.
#[inline(always)]
pub(crate) fn extreme_magnitude<const MAX: bool, const NAN: bool>(a: f32, b: f32) -> f32 {
    let value = extreme::<MAX, NAN>(a.abs(), b.abs());
    let sign = (a.to_bits() ^ b.to_bits()) & 0x8000_0000;
    if value.is_nan() { value } else { f32::from_bits(value.to_bits() | sign) }
}

/// The operation of `min` or `max` over singles.
pub(crate) fn extreme_exec(max: bool, nan: bool, magnitude: bool) -> Exec {
    match (max, nan, magnitude) {
        (false, false, false) => map2(extreme::<false, false>),
        (false, true, false) => map2(extreme::<false, true>),
        (true, false, false) => map2(extreme::<true, false>),
        (true, true, false) => map2(extreme::<true, true>),
        (false, false, true) => map2(extreme_magnitude::<false, false>),
        (false, true, true) => map2(extreme_magnitude::<false, true>),
        (true, false, true) => map2(extreme_magnitude::<true, false>),
        (true, true, true) => map2(extreme_magnitude::<true, true>),
    }
}

pub(super) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    if !matches!(ty, Type::F32 | Type::F64) {
        return Err(b.unknown(i));
    }
    match i.opcode.as_str() {
        "neg" | "abs" => sign(i, b, modifiers, ty),
        "min" | "max" => minimum(i, b, modifiers, ty),
        "copysign" => {
            modifiers.finish(b)?;
            let exec = match ty {
                Type::F32 => map2(|a: u32, b: u32| a & 0x8000_0000 | b & 0x7fff_ffff),
                _ => map2(|a: u64, b: u64| a & 1 << 63 | b & !(1 << 63)),
            };
            b.map_instruction(i, exec, ty, &[ty, ty])
        }
        "testp" => test(i, b, modifiers, ty),
        _ => Err(b.unknown(i)),
    }
}

fn sign(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let ftz = ty == Type::F32 && modifiers.take("ftz");
    modifiers.finish(b)?;
    let exec = match (i.opcode.as_str(), ty, ftz) {
        ("neg", Type::F32, false) => map1(|a: u32| a ^ 0x8000_0000),
        ("neg", Type::F32, true) => map1(|a: f32| -flush(a)),
        ("neg", ..) => map1(|a: u64| a ^ 1 << 63),
        (_, Type::F32, false) => map1(|a: u32| a & 0x7fff_ffff),
        (_, Type::F32, true) => map1(|a: f32| flush(a).abs()),
        _ => map1(|a: u64| a & !(1 << 63)),
    };
    b.map_instruction(i, exec, ty, &[ty])
}

fn minimum(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let max = i.opcode == "max";
    if ty == Type::F64 {
        modifiers.finish(b)?;
        let exec = if max { map2(extreme64::<true>) } else { map2(extreme64::<false>) };
        return b.map_instruction(i, exec, ty, &[ty, ty]);
    }
    let three = i.operands.len() == 4;
    let ftz = modifiers.take("ftz");
    let nan = modifiers.take("NaN");
    let xor_sign = !three && modifiers.take("xorsign");
    let magnitude = (three || xor_sign) && modifiers.take("abs");
    modifiers.finish(b)?;
    if xor_sign && !magnitude {
        return Err(b.error(i, ".xorsign stands before .abs only"));
    }
    let mut slots = sources(b, i, ty, if three { 3 } else { 2 })?;
    for slot in &mut slots {
        *slot = stage_if(b, ftz, || map1(flush), ty, *slot);
        *slot = stage_if(b, three && magnitude, || map1(f32::abs), ty, *slot);
    }
    if let [first, second, third] = slots[..] {
        let pair = stage(b, extreme_exec(max, nan, false), ty, &[first, second]);
        return finish(b, i, extreme_exec(max, nan, false), &i.operands[0], ty, &[pair, third]);
    }
    finish(b, i, extreme_exec(max, nan, xor_sign), &i.operands[0], ty, &slots)
}

fn test(i: &Instruction, b: &mut Builder<'_>, mut modifiers: Modifiers<'_>, ty: Type) -> Result<(), CompileError> {
    let kind = modifiers.take_any(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
    modifiers.finish(b)?;
    let single = ty == Type::F32;
    // The second source is the first again: a test of one value. Zeros count as normal.
    let exec = match (kind, single) {
        (Some("finite"), true) => test2(|a: f32, _: f32| a.is_finite()),
        (Some("finite"), false) => test2(|a: f64, _: f64| a.is_finite()),
        (Some("infinite"), true) => test2(|a: f32, _: f32| a.is_infinite()),
        (Some("infinite"), false) => test2(|a: f64, _: f64| a.is_infinite()),
        (Some("number"), true) => test2(|a: f32, _: f32| !a.is_nan()),
        (Some("number"), false) => test2(|a: f64, _: f64| !a.is_nan()),
        (Some("notanumber"), true) => test2(|a: f32, _: f32| a.is_nan()),
        (Some("notanumber"), false) => test2(|a: f64, _: f64| a.is_nan()),
        (Some("normal"), true) => test2(|a: f32, _: f32| a.is_normal() | (a == 0.0)),
        (Some("normal"), false) => test2(|a: f64, _: f64| a.is_normal() | (a == 0.0)),
        (Some("subnormal"), true) => test2(|a: f32, _: f32| a.is_subnormal()),
        (Some("subnormal"), false) => test2(|a: f64, _: f64| a.is_subnormal()),
        _ => return Err(b.unknown(i)),
    };
    let slots = sources(b, i, ty, 1)?;
    finish(b, i, exec, &i.operands[0], Type::Pred, &[slots[0], slots[0]])
}
