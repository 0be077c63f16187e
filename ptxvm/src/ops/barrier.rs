//! `bar` and `barrier`: named barriers of a block; `bar.warp.sync`.

use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, NO_SLOT, Op, free},
        warp::SplitState,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// What a barrier instruction does besides arriving; `Op::y`.
mod kind {
    pub(super) const SYNC: u32 = 0;
    pub(super) const ARRIVE: u32 = 1;
    pub(super) const COUNT: u32 = 2;
    pub(super) const AND: u32 = 3;
    pub(super) const OR: u32 = 4;
    /// Flag: all lanes of the warp must come together.
    pub(super) const ALIGNED: u32 = 16;
    /// Flag: the predicate is negated.
    pub(super) const NEGATED: u32 = 32;
}

/// `d`: result; `a`: barrier number; `b`: count of threads; `c`: predicate; `y`: kind and flags.
fn barrier() -> Exec {
    free(|warp, op| {
        let what = op.y & 15;
        if let Some(result) = warp.resume.take() {
            finish(warp, op, result);
            return Flow::Next;
        }
        // SAFETY: `a` and `b` are 32-bit slots of this frame, `c` a predicate slot.
        let (id, count, holds) = unsafe {
            let leader = warp.leader();
            let id = warp.lanes::<u32>(op.a)[leader];
            let count = if op.b == NO_SLOT { 0 } else { warp.lanes::<u32>(op.b)[leader] };
            let negate = if op.y & kind::NEGATED != 0 { u32::MAX } else { 0 };
            (id, count, (op.c != NO_SLOT).then(|| warp.predicate(op.c) ^ negate))
        };
        if id >= 16 || count % 32 != 0 {
            let message =
                format!("barrier {id} with {count} threads: there are 16 barriers, and they count whole warps");
            return warp.raise(Fault::new(FaultKind::IllegalInstruction, "invalid-barrier", message));
        }
        let (waits, aligned) = (what != kind::ARRIVE, op.y & kind::ALIGNED != 0);
        if let Some(monitor) = warp.monitor() {
            monitor.arrive(warp, id, waits, aligned);
        }
        let block = warp.block;
        // SAFETY: the block outlives its warps, and one operation of it runs at a time; `arrive` reaches this warp through
        // the reference it is given only.
        let complete = unsafe { (*block).arrive(warp, id, count, holds) };
        if complete {
            let result = warp.resume.take().unwrap_or(0);
            finish(warp, op, result);
            return Flow::Next;
        }
        if !waits {
            return Flow::Next;
        }
        warp.suspended = Some(SplitState::Barrier(id));
        Flow::Suspend
    })
}

/// Writes the result of `barrier.red`: `result` holds how many predicates held, and in its top bit whether one did not.
fn finish(warp: &mut crate::machine::warp::Warp, op: &Op, result: u32) {
    let (count, failed) = (result & 0x7fff_ffff, result >> 31 != 0);
    let all = |flag: bool| if flag { u32::MAX } else { 0 };
    // SAFETY: `d` is a 32-bit slot for `popc`, a predicate slot for `and` and `or`.
    unsafe {
        match op.y & 15 {
            kind::COUNT => warp.write::<u32>(op.d, &[count; 32]),
            kind::AND => warp.write_predicate(op.d, all(!failed)),
            kind::OR => warp.write_predicate(op.d, all(count != 0)),
            _ => {}
        }
    }
}

/// `a`: mask of members.
fn warp_barrier() -> Exec {
    free(|warp, op| {
        let members = super::vote::members(warp, op.a);
        if let Some(flow) = warp.converge(members) {
            return flow;
        }
        super::vote::tell_members(warp, op.a, true);
        Flow::Next
    })
}

/// `bar…` and `barrier…`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    if i.opcode == "bar" && modifiers.take("warp") {
        if !modifiers.take("sync") {
            return Err(b.unknown(i));
        }
        modifiers.finish(b)?;
        let [members] = b.operands::<1>(i)?;
        let mut op = Op::new(warp_barrier());
        op.a = b.read(i, members, Type::B32)?;
        b.emit_suspending(op, vec![]);
        return Ok(());
    }
    modifiers.take("cta");
    let Some(action) = modifiers.take_any(&["sync", "arrive", "red"]) else {
        return Err(b.error(i, "`.sync`, `.arrive` or `.red` is expected (barriers of clusters are not modelled)"));
    };
    let reduction = if action == "red" { modifiers.take_any(&["popc", "and", "or"]) } else { None };
    let aligned = modifiers.take("aligned") || i.opcode == "bar";
    let ty = if action == "red" { modifiers.take_type() } else { None };
    modifiers.finish(b)?;

    let what = match (action, reduction, ty) {
        ("sync", None, None) => kind::SYNC,
        ("arrive", None, None) => kind::ARRIVE,
        ("red", Some("popc"), Some(Type::U32)) => kind::COUNT,
        ("red", Some("and"), Some(Type::Pred)) => kind::AND,
        ("red", Some("or"), Some(Type::Pred)) => kind::OR,
        _ => return Err(b.unknown(i)),
    };
    let mut op = Op::new(barrier());
    op.y = what | if aligned { kind::ALIGNED } else { 0 };
    let mut sources: &[Operand] = &i.operands;
    if action == "red" {
        let [result, between @ .., predicate] = sources else {
            return Err(b.error(i, "a result, a barrier and a predicate are expected"));
        };
        let (slot, negated) = b.read_predicate(i, predicate)?;
        op.c = slot;
        op.y |= if negated { kind::NEGATED } else { 0 };
        op.d = if what == kind::COUNT { b.write(i, result, Type::U32)? } else { b.write_predicate(i, result)? };
        sources = between;
    }
    match sources {
        [id] if action != "arrive" => op.a = b.read(i, id, Type::U32)?,
        [id, count] => {
            op.a = b.read(i, id, Type::U32)?;
            op.b = b.read(i, count, Type::U32)?;
        }
        _ => return Err(b.error(i, "a barrier and (for .arrive always) a count of threads are expected")),
    }
    b.emit_suspending(op, vec![]);
    Ok(())
}
