//! `cvt` from integers.

use super::{
    super::float::{rounding::*, soft, take_rounding},
    Chain,
};
use crate::{
    machine::op::{Exec, map1},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// The Rust type of a PTX integer in an expression.
macro_rules! with_integer {
    ($ty:expr, $t:ident => $exec:expr) => {
        match $ty {
            Type::U8 => {
                type $t = u8;
                $exec
            }
            Type::S8 => {
                type $t = i8;
                $exec
            }
            Type::U16 => {
                type $t = u16;
                $exec
            }
            Type::S16 => {
                type $t = i16;
                $exec
            }
            Type::U32 => {
                type $t = u32;
                $exec
            }
            Type::S32 => {
                type $t = i32;
                $exec
            }
            Type::U64 => {
                type $t = u64;
                $exec
            }
            _ => {
                type $t = i64;
                $exec
            }
        }
    };
}

/// The low bits, or the value with more of them; the sign of the destination does not matter.
#[allow(clippy::unnecessary_cast, reason = "one of the types that the macro goes through is the result's own")]
fn resize(from: Type, to: Type) -> Exec {
    match to.bits() {
        8 if from.bits() == 64 => map1(|a: u64| a as u8),
        8 => map1(|a: u32| a as u8),
        16 => with_integer!(from, A => map1(|a: A| a as u16)),
        32 => with_integer!(from, A => map1(|a: A| a as u32)),
        _ => with_integer!(from, A => map1(|a: A| a as u64)),
    }
}

/// A signed integer of 64 bits into the range of a type.
pub(super) fn saturate_signed(to: Type) -> Exec {
    match to {
        Type::U64 => map1(|a: i64| a.max(0)),
        Type::S64 => map1(|a: i64| a),
        Type::U32 => map1(|a: i64| a.clamp(0, i64::from(u32::MAX)) as u32),
        Type::S32 => map1(|a: i64| a.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32),
        Type::U16 => map1(|a: i64| a.clamp(0, i64::from(u16::MAX)) as u16),
        Type::S16 => map1(|a: i64| a.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16),
        Type::U8 => map1(|a: i64| a.clamp(0, i64::from(u8::MAX)) as u8),
        _ => map1(|a: i64| a.clamp(i64::from(i8::MIN), i64::from(i8::MAX)) as i8),
    }
}

fn saturate_unsigned(to: Type) -> Exec {
    match to {
        Type::U64 => map1(|a: u64| a),
        Type::S64 => map1(|a: u64| a.min(i64::MAX as u64)),
        Type::U32 => map1(|a: u64| a.min(u32::MAX.into()) as u32),
        Type::S32 => map1(|a: u64| a.min(i32::MAX as u64) as u32),
        Type::U16 => map1(|a: u64| a.min(u16::MAX.into()) as u16),
        Type::S16 => map1(|a: u64| a.min(i16::MAX as u64) as u16),
        Type::U8 => map1(|a: u64| a.min(u8::MAX.into()) as u8),
        _ => map1(|a: u64| a.min(i8::MAX as u64) as u8),
    }
}

pub(super) fn to_integer(
    _: &Instruction,
    b: &Builder<'_>,
    mut modifiers: Modifiers<'_>,
    chain: &mut Chain,
    from: Type,
    to: Type,
) -> Result<(), CompileError> {
    // Where every value fits there is nothing to saturate, and no such modifier.
    let fits = match (from.is_signed(), to.is_signed()) {
        (false, true) => from.bits() < to.bits(),
        (true, false) => false,
        _ => from.bits() <= to.bits(),
    };
    let sat = !fits && modifiers.take("sat");
    modifiers.finish(b)?;
    if !sat {
        chain.then(resize(from, to), to);
    } else if from.is_signed() {
        chain.then_if(from != Type::S64, || resize(from, Type::S64), Type::S64);
        chain.then(saturate_signed(to), to);
    } else {
        chain.then_if(from != Type::U64, || resize(from, Type::U64), Type::U64);
        chain.then(saturate_unsigned(to), to);
    }
    Ok(())
}

/// Integers of 32 bits are exact doubles.
fn to_f32(from: Type, mode: u8) -> Exec {
    macro_rules! words {
        ($a:ty) => {
            match mode {
                RZ => map1(|a: $a| to_single::<RZ>(f64::from(a))),
                RM => map1(|a: $a| to_single::<RM>(f64::from(a))),
                RP => map1(|a: $a| to_single::<RP>(f64::from(a))),
                _ => map1(|a: $a| a as f32),
            }
        };
    }
    macro_rules! long {
        ($a:ty) => {
            match mode {
                RZ => map1(|a: $a| soft::from_integer(i128::from(a), RZ, soft::F32) as u32),
                RM => map1(|a: $a| soft::from_integer(i128::from(a), RM, soft::F32) as u32),
                RP => map1(|a: $a| soft::from_integer(i128::from(a), RP, soft::F32) as u32),
                _ => map1(|a: $a| a as f32),
            }
        };
    }
    match from {
        Type::U64 => long!(u64),
        Type::S64 => long!(i64),
        Type::U32 => words!(u32),
        _ => words!(i32),
    }
}

fn to_f64(from: Type, mode: u8) -> Exec {
    macro_rules! long {
        ($a:ty) => {
            match mode {
                RZ => map1(|a: $a| soft::from_integer(i128::from(a), RZ, soft::F64)),
                RM => map1(|a: $a| soft::from_integer(i128::from(a), RM, soft::F64)),
                RP => map1(|a: $a| soft::from_integer(i128::from(a), RP, soft::F64)),
                _ => map1(|a: $a| a as f64),
            }
        };
    }
    match from {
        Type::U64 => long!(u64),
        Type::S64 => long!(i64),
        Type::U32 => map1(|a: u32| f64::from(a)),
        _ => map1(|a: i32| f64::from(a)),
    }
}

/// Signed or unsigned integers of 64 bits to a 16-bit format.
fn to_half(signed: bool, to: Type, mode: u8) -> Exec {
    macro_rules! formats {
        ($a:ty) => {
            match (to, mode) {
                (Type::F16, RN) => map1(|a: $a| soft::from_integer(i128::from(a), RN, soft::F16) as u16),
                (Type::F16, RZ) => map1(|a: $a| soft::from_integer(i128::from(a), RZ, soft::F16) as u16),
                (Type::F16, RM) => map1(|a: $a| soft::from_integer(i128::from(a), RM, soft::F16) as u16),
                (Type::F16, _) => map1(|a: $a| soft::from_integer(i128::from(a), RP, soft::F16) as u16),
                (_, RN) => map1(|a: $a| soft::from_integer(i128::from(a), RN, soft::BF16) as u16),
                (_, RZ) => map1(|a: $a| soft::from_integer(i128::from(a), RZ, soft::BF16) as u16),
                (_, RM) => map1(|a: $a| soft::from_integer(i128::from(a), RM, soft::BF16) as u16),
                (_, _) => map1(|a: $a| soft::from_integer(i128::from(a), RP, soft::BF16) as u16),
            }
        };
    }
    if signed { formats!(i64) } else { formats!(u64) }
}

pub(super) fn to_real(
    i: &Instruction,
    b: &Builder<'_>,
    mut modifiers: Modifiers<'_>,
    chain: &mut Chain,
    from: Type,
    to: Type,
) -> Result<(), CompileError> {
    let mode = take_rounding(&mut modifiers).ok_or_else(|| b.error(i, "a rounding modifier is required"))?;
    if to == Type::F32 {
        // Integers are never subnormal.
        modifiers.take("ftz");
    }
    let sat = to != Type::Bf16 && modifiers.take("sat");
    modifiers.finish(b)?;
    let signed = from.is_signed();
    if matches!(to, Type::F16 | Type::Bf16) {
        let wide = if signed { Type::S64 } else { Type::U64 };
        chain.then_if(from != wide, || resize(from, wide), wide);
        chain.then(to_half(signed, to, mode), to);
    } else {
        let wide = match (from.bits(), signed) {
            (64, _) => from,
            (_, true) => Type::S32,
            (_, false) => Type::U32,
        };
        chain.then_if(from != wide, || resize(from, wide), wide);
        chain.then(if to == Type::F32 { to_f32(wide, mode) } else { to_f64(wide, mode) }, to);
    }
    chain.then_if(sat, || super::reals::saturate_exec(to), to);
    Ok(())
}
