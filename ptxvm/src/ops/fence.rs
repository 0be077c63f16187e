//! `fence` and `membar`.

use super::memory::take_scope;
use crate::{
    machine::op::{Exec, Flow, Op, free},
    monitor::Scope,
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::Instruction,
};
use std::sync::atomic::{Ordering, fence};

/// Everything before happens before everything after, for scope `x`.
fn order() -> Exec {
    free(|warp, op| {
        let scope = match op.x {
            0 => Scope::Block,
            1 => Scope::Device,
            _ => Scope::System,
        };
        if let Some(monitor) = warp.monitor() {
            monitor.fence(warp, scope);
        }
        // All fences are of the strongest kind.
        fence(Ordering::SeqCst);
        Flow::Next
    })
}

/// `membar`, `fence`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    let scope = if i.opcode == "membar" {
        let level = m.take_any(&["cta", "gl", "sys", "proxy"]);
        match level {
            Some("cta") => Scope::Block,
            Some("gl") => Scope::Device,
            Some("sys") => Scope::System,
            _ if m.take_any(&["alias", "async", "async.global", "async.shared::cta"]).is_some() => Scope::Block,
            _ => return Err(b.unknown(i)),
        }
    } else if m.take("proxy") {
        // Proxies other than the generic one belong to what is not modelled, so ordering them takes nothing.
        if m.take_any(&["alias", "async"]).is_none() {
            return Err(b.error(i, "this proxy is not modelled"));
        }
        m.take_any(&["global", "shared::cta", "shared::cluster"]);
        Scope::Block
    } else if m.take("mbarrier_init") {
        if !m.take("release") || !m.take("cluster") {
            return Err(b.unknown(i));
        }
        Scope::Device
    } else {
        m.take_any(&["sc", "acq_rel", "acquire", "release"]);
        take_scope(&mut m).ok_or_else(|| b.unknown(i))?
    };
    m.finish(b)?;
    b.operands::<0>(i)?;
    let mut op = Op::new(order());
    op.x = scope as u32;
    b.emit(op);
    Ok(())
}
