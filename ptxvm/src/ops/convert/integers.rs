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
#[allow(clippy::unnecessary_cast, reason = "one of the types that the macro goes through is the operand's own")]
pub(super) fn saturate_signed(to: Type) -> Exec {
    with_integer!(to, T => map1(|a: i64| {
        // What is unsigned and as wide has no largest number among these.
        let most = if T::MAX as i64 == -1 { i64::MAX } else { T::MAX as i64 };
        a.clamp(T::MIN as i64, most) as T
    }))
}

#[allow(clippy::unnecessary_cast, reason = "as above")]
fn saturate_unsigned(to: Type) -> Exec {
    with_integer!(to, T => map1(|a: u64| a.min(T::MAX as u64) as T))
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
    macro_rules! long {
        ($a:ty) => {
            match mode {
                RN => map1(|a: $a| a as f32),
                _ => with_rounding!(mode, M => map1(|a: $a| soft::from_integer(i128::from(a), M, soft::F32) as u32)),
            }
        };
    }
    match (from, mode) {
        (Type::U64, _) => long!(u64),
        (Type::S64, _) => long!(i64),
        (Type::U32, RN) => map1(|a: u32| a as f32),
        (_, RN) => map1(|a: i32| a as f32),
        (Type::U32, _) => with_rounding!(mode, M => map1(|a: u32| to_single::<M>(f64::from(a)))),
        _ => with_rounding!(mode, M => map1(|a: i32| to_single::<M>(f64::from(a)))),
    }
}

fn to_f64(from: Type, mode: u8) -> Exec {
    macro_rules! long {
        ($a:ty) => {
            match mode {
                RN => map1(|a: $a| a as f64),
                _ => with_rounding!(mode, M => map1(|a: $a| soft::from_integer(i128::from(a), M, soft::F64))),
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
    macro_rules! into {
        ($format:expr) => {
            if signed {
                with_rounding!(mode, M => map1(|a: i64| soft::from_integer(i128::from(a), M, $format) as u16))
            } else {
                with_rounding!(mode, M => map1(|a: u64| soft::from_integer(i128::from(a), M, $format) as u16))
            }
        };
    }
    if to == Type::F16 { into!(soft::F16) } else { into!(soft::BF16) }
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
