//! `cvta`, `isspacep`, `mapa`, `getctarank`: addresses from one space to another.

use super::{op_space, take_space};
use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, Op, free, map1, test2},
    },
    memory::{AllocationKind, LOCAL_WINDOW, Memory, PARAM_WINDOW, SHARED_WINDOW},
    ops::memory::OpSpace,
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Space, Type},
};

/// `cvta`.
pub(crate) fn convert(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let to = m.take("to");
    let space = take_space(&mut m);
    if m.take_type() != Some(Type::U64) {
        return Err(b.error(i, "addresses have 64 bits here, expected .u64"));
    }
    m.finish(b)?;
    let exec = match (space, to) {
        (Some(Space::Global | Space::Const), _) | (Some(Space::Param), true) => map1(|a: u64| a),
        (Some(Space::Shared), false) => map1(|a: u64| a.wrapping_add(SHARED_WINDOW)),
        (Some(Space::Shared), true) => map1(|a: u64| a.wrapping_sub(SHARED_WINDOW)),
        (Some(Space::Local), false) => map1(|a: u64| a.wrapping_add(LOCAL_WINDOW)),
        (Some(Space::Local), true) => map1(|a: u64| a.wrapping_sub(LOCAL_WINDOW)),
        // A kernel's parameters have generic addresses as it is; a function's lie in local memory.
        (Some(Space::Param), false) => map1(|a: u64| if a < LOCAL_WINDOW { a.wrapping_add(LOCAL_WINDOW) } else { a }),
        _ => return Err(b.unknown(i)),
    };
    b.map_instruction(i, exec, Type::U64, &[Type::U64])
}

/// `isspacep`.
pub(crate) fn is_space(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let constant = i.has("const");
    let space = op_space(take_space(&mut m));
    m.finish(b)?;
    let [d, a] = b.operands::<2>(i)?;
    let mut op = Op::new(match space {
        OpSpace::Global => is_global(),
        OpSpace::Shared => test2(|a: u64, _: u64| (SHARED_WINDOW..LOCAL_WINDOW).contains(&a)),
        OpSpace::Local => test2(|a: u64, _: u64| (LOCAL_WINDOW..PARAM_WINDOW).contains(&a)),
        OpSpace::Param => test2(|a: u64, _: u64| (PARAM_WINDOW..PARAM_WINDOW + SHARED_WINDOW).contains(&a)),
        OpSpace::Generic => return Err(b.unknown(i)),
    });
    op.imm = constant.into();
    op.a = b.read(i, a, Type::U64)?;
    op.b = op.a;
    op.d = b.write_predicate(i, d)?;
    b.emit(op);
    Ok(())
}

/// `d` = address `a` is global, or with `imm` constant, memory.
fn is_global() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a 64-bit slot, `d` a predicate slot of this frame.
        unsafe {
            let addresses = warp.lanes::<u64>(op.a);
            let mut bits = 0;
            for (lane, &address) in addresses.iter().enumerate() {
                if warp.mask >> lane & 1 != 0 && address < SHARED_WINDOW {
                    let constant = Memory::global()
                        .find(address)
                        .is_some_and(|allocation| allocation.kind == AllocationKind::ModuleConst);
                    bits |= u32::from(constant == (op.imm != 0)) << lane;
                }
            }
            warp.write_predicate(op.d, bits);
        }
        Flow::Next
    })
}

/// `mapa`: clusters have one block here, so every address of the block's own is the cluster's too.
pub(crate) fn map_to_rank(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    m.take("shared::cluster");
    let ty = m.take_type().filter(|ty| matches!(ty, Type::U32 | Type::U64)).ok_or_else(|| b.unknown(i))?;
    m.finish(b)?;
    let [d, a, rank] = b.operands::<3>(i)?;
    let mut op = Op::new(if ty == Type::U32 { own_rank::<u32>() } else { own_rank::<u64>() });
    op.a = b.read(i, a, ty)?;
    op.b = b.read(i, rank, Type::U32)?;
    op.d = b.write(i, d, ty)?;
    b.emit(op);
    Ok(())
}

fn own_rank<T: crate::machine::lanes::Lane>() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` and `d` are slots of T, `b` is a 32-bit slot of this frame.
        unsafe {
            let ranks = warp.lanes::<u32>(op.b);
            if let Some(lane) = (0..32).find(|&lane| warp.mask >> lane & 1 != 0 && ranks[lane] != 0) {
                let message = format!("mapa to block {} of a cluster; clusters have one block here", ranks[lane]);
                return warp.raise(Fault::new(FaultKind::InvalidAddressSpace, "not-modelled", message).in_lane(lane));
            }
            let addresses = *warp.lanes::<T>(op.a);
            warp.write::<T>(op.d, &addresses);
        }
        Flow::Next
    })
}

/// `getctarank`: the only block of a cluster has rank 0.
pub(crate) fn rank_of(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    m.take("shared::cluster");
    let ty = m.take_type().filter(|ty| matches!(ty, Type::U32 | Type::U64)).ok_or_else(|| b.unknown(i))?;
    m.finish(b)?;
    let exec = if ty == Type::U32 { map1(|_: u32| 0u32) } else { map1(|_: u64| 0u32) };
    b.map_instruction(i, exec, Type::U32, &[ty])
}
