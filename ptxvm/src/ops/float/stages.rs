//! Instructions made of several operations: rare modifiers are operations of their own before and after the common one.

use crate::{
    machine::op::{Exec, Slot},
    program::{CompileError, builder::Builder},
    ptx::ast::{Instruction, Operand, Type},
};

/// Appends `t = exec(sources)` for a temporary `t` of type `ty`.
pub(crate) fn stage(b: &mut Builder<'_>, exec: Exec, ty: Type, sources: &[Slot]) -> Slot {
    for source in sources {
        b.reads(*source);
    }
    let temporary = b.temporary(ty);
    b.writes(temporary);
    b.emit_map(exec, temporary, sources);
    temporary
}

/// Appends `t = exec(source)` if there is something to do.
pub(crate) fn stage_if(b: &mut Builder<'_>, wanted: bool, exec: impl FnOnce() -> Exec, ty: Type, source: Slot) -> Slot {
    if wanted { stage(b, exec(), ty, &[source]) } else { source }
}

/// Appends `d = exec(sources)`, the last operation of an instruction.
pub(crate) fn finish(
    b: &mut Builder<'_>,
    i: &Instruction,
    exec: Exec,
    destination: &Operand,
    ty: Type,
    sources: &[Slot],
) -> Result<(), CompileError> {
    for source in sources {
        b.reads(*source);
    }
    let d = b.write(i, destination, ty)?;
    b.emit_map(exec, d, sources);
    Ok(())
}

/// Reads every operand after the first as `ty`; there must be `count` of them.
pub(crate) fn sources(b: &mut Builder<'_>, i: &Instruction, ty: Type, count: usize) -> Result<Vec<Slot>, CompileError> {
    if i.operands.len() != count + 1 {
        return Err(b.error(i, format!("found {} operands, expected {}", i.operands.len(), count + 1)));
    }
    i.operands[1..].iter().map(|operand| b.read(i, operand, ty)).collect()
}
