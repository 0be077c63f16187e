//! `cvt` in all its combinations, and `cvt.pack`.
//!
//! A conversion is a chain: the source is widened to a type that holds it exactly, converted, rounded or saturated, and
//! put into the destination register, which may be wider than the destination type.

/// An expression for the rounding that is asked for, which is the constant `M` there.
macro_rules! with_rounding {
    ($mode:expr, $m:ident => $exec:expr) => {
        match $mode {
            RZ => {
                const $m: u8 = RZ;
                $exec
            }
            RM => {
                const $m: u8 = RM;
                $exec
            }
            RP => {
                const $m: u8 = RP;
                $exec
            }
            _ => {
                const $m: u8 = RN;
                $exec
            }
        }
    };
}

mod integers;
mod narrow;
mod pack;
mod reals;
mod scale;

use super::float::stages::{finish, stage};
use crate::{
    machine::op::{Exec, Slot, map1},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// The operations a conversion is made of, in order, each with the type of its result.
#[derive(Default)]
struct Chain(Vec<(Exec, Type)>);

impl Chain {
    fn then(&mut self, exec: Exec, result: Type) {
        self.0.push((exec, result));
    }

    fn then_if(&mut self, wanted: bool, exec: impl FnOnce() -> Exec, result: Type) {
        if wanted {
            self.0.push((exec(), result));
        }
    }

    /// Appends the operations: from `source` to the destination.
    fn emit(
        mut self,
        i: &Instruction,
        b: &mut Builder<'_>,
        mut source: Slot,
        destination: &Operand,
        ty: Type,
    ) -> Result<(), CompileError> {
        // What widens the result into the destination register is the last operation then.
        let register = b.register_type(destination).unwrap_or(ty);
        if let Some(exec) = extend(ty, register.bits()) {
            self.then(exec, register);
        }
        let (last, _) = self.0.pop().unwrap_or((super::moves::copy(ty.bits()), ty));
        for (exec, result) in self.0 {
            source = stage(b, exec, result, &[source]);
        }
        b.reads(source);
        let (d, _) = b.write_any(i, destination, ty)?;
        b.emit_map(last, d, &[source]);
        Ok(())
    }
}

/// What puts a value of type `ty` into a register of `bits`, if that is more than the type has.
fn extend(ty: Type, bits: u32) -> Option<Exec> {
    Some(match (ty, bits) {
        (Type::S8, 16) => map1(|a: i8| i16::from(a)),
        (Type::S8, 32) => map1(|a: i8| i32::from(a)),
        (Type::S8, 64) => map1(|a: i8| i64::from(a)),
        (Type::S16, 32) => map1(|a: i16| i32::from(a)),
        (Type::S16, 64) => map1(|a: i16| i64::from(a)),
        (Type::S32, 64) => map1(|a: i32| i64::from(a)),
        // Narrower values lie zero-extended in 32 bits.
        (ty, 64) if ty.bits() < 64 => map1(|a: u32| u64::from(a)),
        _ => return None,
    })
}

/// Whether a type is one of the integers that `cvt` knows.
fn is_integer(ty: Type) -> bool {
    matches!(ty, Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::S8 | Type::S16 | Type::S32 | Type::S64)
}

/// Whether a type is one of the floating-point scalars that `cvt` knows.
fn is_real(ty: Type) -> bool {
    matches!(ty, Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
}

/// `cvt`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    if modifiers.take("pack") {
        return pack::decode(i, b, modifiers);
    }
    let names: Vec<&str> = modifiers.left().to_vec();
    let scalars = modifiers.take_type().zip(modifiers.take_type());
    match scalars {
        Some((from, to)) if (is_integer(from) || is_real(from)) && (is_integer(to) || is_real(to)) => {
            scalar(i, b, modifiers, from, to)
        }
        _ => narrow::decode(i, b, Modifiers::of(i), &names),
    }
}

fn scalar(
    i: &Instruction,
    b: &mut Builder<'_>,
    modifiers: Modifiers<'_>,
    from: Type,
    to: Type,
) -> Result<(), CompileError> {
    let mut chain = Chain::default();
    let [d, a] = b.operands::<2>(i)?;
    if matches!(a, Operand::Float(_)) && !is_real(from) || matches!(a, Operand::Integer { .. }) && is_real(from) {
        return Err(b.error(i, format!("the constant is not of type .{from}")));
    }
    let (slot, found) = b.read_any(i, a, from)?;
    if found.bits() == 64 && from.bits() < 64 {
        chain.then(map1(|a: u64| a as u32), Type::B32);
    }
    match (is_integer(from), is_integer(to)) {
        (true, true) => integers::to_integer(i, b, modifiers, &mut chain, from, to)?,
        (true, false) => integers::to_real(i, b, modifiers, &mut chain, from, to)?,
        (false, true) => reals::to_integer(i, b, modifiers, &mut chain, from, to)?,
        (false, false) => reals::to_real(i, b, modifiers, &mut chain, from, to)?,
    }
    b.reads(slot);
    chain.emit(i, b, slot, d, to)
}

/// Reads `count` sources of one type and writes what `exec` makes of them.
fn direct(
    i: &Instruction,
    b: &mut Builder<'_>,
    exec: Exec,
    to: Type,
    from: Type,
    count: usize,
) -> Result<(), CompileError> {
    let slots = super::float::stages::sources(b, i, from, count)?;
    finish(b, i, exec, &i.operands[0], to, &slots)
}
