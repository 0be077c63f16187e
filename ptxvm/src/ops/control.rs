//! Control flow: branches, joins, guards, returns and exits.

use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, Op, free},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
        draft::Control,
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// Lanes meet here.
pub(crate) fn join() -> Exec {
    free(|warp, _| warp.meet())
}

/// Lanes end.
pub(crate) fn exit() -> Exec {
    free(|warp, _| warp.exit())
}

/// Lanes leave the function; in a kernel they end.
pub(crate) fn ret() -> Exec {
    free(|warp, _| warp.leave())
}

/// Only lanes where predicate `a` (`y`: its opposite) holds run the `imm` operations that follow; then comes `unguard`.
pub(crate) fn guard() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a predicate slot of this frame.
        let holds = unsafe { warp.predicate(op.a) } ^ 0u32.wrapping_sub(op.y);
        warp.unguarded = warp.mask;
        let lanes = warp.mask & holds;
        if lanes == 0 {
            warp.pc += op.imm as u32 + 2;
            return Flow::Jump;
        }
        warp.mask = lanes;
        Flow::Next
    })
}

/// Ends what `guard` began.
pub(crate) fn unguard() -> Exec {
    free(|warp, _| {
        warp.mask = warp.unguarded;
        Flow::Next
    })
}

/// To `imm` where predicate `a` (`y`: its opposite) holds; lanes that part meet at `x`.
pub(crate) fn branch_if() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a predicate slot of this frame.
        let holds = unsafe { warp.predicate(op.a) } ^ 0u32.wrapping_sub(op.y);
        let taken = warp.mask & holds;
        if taken == 0 {
            return Flow::Next;
        }
        if taken == warp.mask {
            warp.pc = op.imm as u32;
            return Flow::Jump;
        }
        warp.part(taken, op.imm as u32, warp.pc + 1, op.x)
    })
}

fn jump() -> Exec {
    free(|warp, op| {
        warp.pc = op.imm as u32;
        Flow::Jump
    })
}

/// To entry `a` of branch table `imm`; lanes with other entries than the first lane's come here again.
fn branch_table() -> Exec {
    free(|warp, op| {
        let table = &warp.function().tables[op.imm as usize];
        // SAFETY: `a` is a 32-bit slot of this frame.
        let index = unsafe { warp.lanes::<u32>(op.a) };
        let first = index[warp.leader()];
        let Some(&target) = table.get(first as usize) else {
            let message = format!("brx.idx with index {first}, but the list has {} targets", table.len());
            return warp.raise(Fault::new(FaultKind::InvalidPc, "out-of-bounds", message));
        };
        let mut same = 0;
        for (lane, &other) in index.iter().enumerate() {
            same |= u32::from(other == first) << lane;
        }
        same &= warp.mask;
        if same == warp.mask {
            warp.pc = target;
            return Flow::Jump;
        }
        let here = warp.pc;
        warp.part(same, target, here, op.x)
    })
}

/// `d` = address, in local space, of byte `imm` of the frame's local memory.
pub(crate) fn frame_address() -> Exec {
    free(|warp, op| {
        let address = u64::from(warp.local_base) + op.imm;
        // SAFETY: `d` is a 64-bit slot of this frame.
        unsafe { warp.write::<u64>(op.d, &[address; 32]) };
        Flow::Next
    })
}

fn trap() -> Exec {
    free(|warp: &mut Warp, _| warp.raise(Fault::new(FaultKind::Trap, "trap", "the kernel executed a trap")))
}

/// `bra`, with its guard.
pub(crate) fn branch(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    modifiers.take("uni");
    modifiers.finish(b)?;
    let [Operand::Name(name)] = b.operands::<1>(i)? else {
        return Err(b.error(i, "a label is expected"));
    };
    let label = b.label(i, name)?;
    match &i.guard {
        None => b.emit_control(Op::new(jump()), Control::Jump(label)),
        Some(guard) => {
            let (slot, _) = b.read_predicate(i, &Operand::Name(guard.register.clone()))?;
            let mut op = Op::new(branch_if());
            op.a = slot;
            op.y = guard.negated.into();
            b.emit_control(op, Control::Branch(label));
        }
    }
    Ok(())
}

/// `brx.idx`, `ret`, `exit`, `trap`, `brkpt`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    match i.opcode.as_str() {
        "brx" => {
            modifiers.take("uni");
            if !modifiers.take("idx") {
                return Err(b.unknown(i));
            }
            modifiers.finish(b)?;
            let [index, Operand::Name(list)] = b.operands::<2>(i)? else {
                return Err(b.error(i, "an index and a .branchtargets list are expected"));
            };
            let labels = b.branch_targets(i, list)?;
            let table = b.add_table(labels);
            let mut op = Op::new(branch_table());
            op.a = b.read(i, index, Type::U32)?;
            b.emit_control(op, Control::Table(table));
        }
        "ret" | "exit" => {
            if i.opcode == "ret" {
                modifiers.take("uni");
            }
            modifiers.finish(b)?;
            b.operands::<0>(i)?;
            b.emit_control(Op::new(if i.opcode == "ret" { ret() } else { exit() }), Control::End);
        }
        "trap" | "brkpt" => {
            modifiers.finish(b)?;
            b.operands::<0>(i)?;
            b.emit_control(Op::new(trap()), Control::None);
        }
        _ => return Err(b.unknown(i)),
    }
    Ok(())
}
