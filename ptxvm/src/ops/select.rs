//! `selp` and `slct`.

use super::float::{
    rounding::flush,
    stages::{finish, stage_if},
};
use crate::{
    machine::{
        lanes::{Lane, Stored},
        op::{Body, Exec, Flow, Op, exec, map1, map3},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Type},
};

/// The body of [`select`]: a type of its own, so that it takes on the features of the instruction set it is made for.
struct Select<T>(std::marker::PhantomData<T>);

impl<T: Lane> Body for Select<T> {
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: the decoder made `c` for a predicate and the others for this type.
        unsafe {
            let chosen = warp.predicate(op.c) ^ op.x.wrapping_neg();
            let mut result = *warp.lanes::<T>(op.b);
            T::Stored::blend(&mut result, warp.lanes::<T>(op.a), chosen);
            warp.write::<T>(op.d, &result);
        }
        Flow::Next
    }
}

/// `d = c ? a : b` for a predicate `c`, negated if `x` is 1.
pub(crate) fn select<T: Lane>() -> Exec {
    exec::<Select<T>>()
}

fn is_word(ty: Type) -> bool {
    matches!(
        ty,
        Type::B16 | Type::B32 | Type::B64 | Type::U16 | Type::U32 | Type::U64 | Type::S16 | Type::S32 | Type::S64
    ) || matches!(ty, Type::F32 | Type::F64)
}

/// `selp slct`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    if i.opcode == "slct" {
        return slct(i, b);
    }
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().filter(|ty| is_word(*ty)).ok_or_else(|| b.unknown(i))?;
    modifiers.finish(b)?;
    let [d, first, second, predicate] = b.operands::<4>(i)?;
    let mut op = Op::new(if ty.bits() == 64 { select::<u64>() } else { select::<u32>() });
    op.a = b.read(i, first, ty)?;
    op.b = b.read(i, second, ty)?;
    let (predicate, negated) = b.read_predicate(i, predicate)?;
    op.c = predicate;
    op.x = negated.into();
    op.d = b.write(i, d, ty)?;
    b.emit(op);
    Ok(())
}

fn slct(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let sign = modifiers.take_type().ok_or_else(|| b.unknown(i))?;
    let ty = modifiers.take_type().filter(|ty| is_word(*ty)).ok_or_else(|| b.unknown(i))?;
    let ftz = sign == Type::F32 && modifiers.take("ftz");
    modifiers.finish(b)?;
    let exec = match (sign, ty.bits()) {
        (Type::S32, 64) => map3(|a: u64, b: u64, c: i32| if c >= 0 { a } else { b }),
        (Type::S32, _) => map3(|a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
        (Type::F32, 64) => map3(|a: u64, b: u64, c: f32| if c >= 0.0 { a } else { b }),
        (Type::F32, _) => map3(|a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
        _ => return Err(b.unknown(i)),
    };
    let [d, first, second, third] = b.operands::<4>(i)?;
    let first = b.read(i, first, ty)?;
    let second = b.read(i, second, ty)?;
    let third = b.read(i, third, sign)?;
    let third = stage_if(b, ftz, || map1(flush), sign, third);
    finish(b, i, exec, d, ty, &[first, second, third])
}
