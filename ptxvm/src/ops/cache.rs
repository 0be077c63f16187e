//! Hints to caches, which change nothing here: `prefetch`, `prefetchu`, `applypriority`, `discard`, `createpolicy`.

use super::memory::{register_address, take_space};
use crate::{
    machine::op::{Flow, Op, free, map1},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// `prefetch`, `prefetchu`, `applypriority`, `discard`: their addresses are not even looked at, as a device does not
/// fault on them.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    if m.take("tensormap") {
        return Err(b.error(i, "tensor maps are not modelled"));
    }
    let space = take_space(&mut m);
    let (levels, operands): (&[&str], usize) = match i.opcode.as_str() {
        "prefetch" => (&["L1", "L2", "L2::evict_last", "L2::evict_normal"], 1),
        "prefetchu" => (&["L1"], 1),
        "applypriority" => (&["L2::evict_normal"], 2),
        _ => (&["L2"], 2),
    };
    if m.take_any(levels).is_none() || !matches!(space, None | Some(Space::Global | Space::Local)) {
        return Err(b.unknown(i));
    }
    m.finish(b)?;
    if i.operands.len() != operands {
        return Err(b.error(i, format!("found {} operands, expected {operands}", i.operands.len())));
    }
    if operands == 2 && !matches!(i.operands[1], Operand::Integer { value: 128, .. }) {
        return Err(b.error(i, "the size can only be 128"));
    }
    let mut nothing = Op::new(free(|_, _| Flow::Next));
    if space != Some(Space::Local) {
        register_address(i, b, &i.operands[0], space, &mut nothing)?;
    }
    b.emit(nothing);
    Ok(())
}

/// `createpolicy`: any value will do, as `.L2::cache_hint` is not looked at.
pub(crate) fn create_policy(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    const PRIORITIES: &[&str] = &["L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged"];
    let mut m = Modifiers::of(i);
    let form = m.take_any(&["fractional", "range", "cvt"]).ok_or_else(|| b.unknown(i))?;
    if m.take_type() != Some(Type::B64) {
        return Err(b.unknown(i));
    }
    let sources = match form {
        "cvt" => {
            if !m.take("L2") {
                return Err(b.unknown(i));
            }
            2..=2
        }
        form => {
            take_space(&mut m);
            let primary = m.take_any(PRIORITIES).is_some();
            m.take_any(PRIORITIES);
            if !primary {
                return Err(b.unknown(i));
            }
            if form == "range" { 4..=4 } else { 1..=2 }
        }
    };
    m.finish(b)?;
    if !sources.contains(&i.operands.len()) {
        return Err(b.error(i, format!("found {} operands", i.operands.len())));
    }
    let policy = b.constant(Type::B64, 0x1000_0000_0000_0000);
    b.reads(policy);
    let d = b.write(i, &i.operands[0], Type::B64)?;
    b.emit_map(map1(|a: u64| a), d, &[policy]);
    Ok(())
}
