//! `alloca`, `stacksave`, `stackrestore`: memory that a function takes from its frame's end while it runs.

use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, Op, free},
        warp::Warp,
    },
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Type},
};

/// Bytes that every call takes beside the frame: for where to return to, as on a GPU.
const RETURN_ADDRESS: u32 = 16;

impl Warp {
    /// Where the current frame's memory ends in each lane.
    fn tops(&self) -> [u32; 32] {
        let frame = &self.frames[self.frame as usize];
        match &frame.tops {
            Some(tops) => **tops,
            None => [frame.local_base + self.function().local_bytes; 32],
        }
    }

    fn set_tops(&mut self, tops: [u32; 32]) {
        let frame = self.frame as usize;
        self.frames[frame].tops = Some(Box::new(tops));
    }

    /// Where the frame of a function that is called now starts, the same for all active lanes.
    pub(super) fn next_frame(&self) -> u32 {
        let tops = self.tops();
        let highest = (0..32).filter(|lane| self.mask >> lane & 1 != 0).map(|lane| tops[lane]).max().unwrap_or(0);
        (highest + RETURN_ADDRESS).next_multiple_of(16)
    }

    /// The fault of a thread whose stack is too small.
    #[cold]
    pub(super) fn stack_overflow(&mut self, what: &str) -> Flow {
        let limit = self.running().local_limit();
        self.raise(Fault::new(
            FaultKind::StackOverflow,
            "stack-overflow",
            format!(
                "{what} needs more than the {limit} bytes of stack that a thread has (CU_LIMIT_STACK_SIZE raises it)"
            ),
        ))
    }
}

/// `d` = address, in local space, of `a` new bytes, a multiple of `imm`.
fn allocate<const WIDE: bool>() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a slot of this frame, of 64 bits or 32.
        let sizes: [u64; 32] =
            unsafe { if WIDE { *warp.lanes::<u64>(op.a) } else { warp.lanes::<u32>(op.a).map(u64::from) } };
        let mut tops = warp.tops();
        let mut starts = [0u64; 32];
        let mask = warp.mask;
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let start = u64::from(tops[lane]).next_multiple_of(op.imm);
            let end = start.saturating_add(sizes[lane]);
            let fits = u32::try_from(end).ok().filter(|end| *end < 1 << 30);
            match fits {
                Some(end) if warp.reserve_local(end) => tops[lane] = end,
                _ => return warp.stack_overflow(&format!("alloca of {} bytes", sizes[lane])),
            }
            starts[lane] = start;
        }
        warp.set_tops(tops);
        put::<WIDE>(warp, op, &starts);
        Flow::Next
    })
}

/// `d` = where the frame's memory ends.
fn save<const WIDE: bool>() -> Exec {
    free(|warp, op| {
        let tops = warp.tops().map(u64::from);
        put::<WIDE>(warp, op, &tops);
        Flow::Next
    })
}

/// Frees what was allocated since `a` was saved.
fn restore<const WIDE: bool>() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a slot of this frame, of 64 bits or 32.
        let saved: [u64; 32] =
            unsafe { if WIDE { *warp.lanes::<u64>(op.a) } else { warp.lanes::<u32>(op.a).map(u64::from) } };
        let mut tops = warp.tops();
        let frame = &warp.frames[warp.frame as usize];
        let start = u64::from(frame.local_base + warp.function().local_bytes);
        for lane in (0..32).filter(|lane| warp.mask >> lane & 1 != 0) {
            if saved[lane] < start || saved[lane] > u64::from(tops[lane]) {
                let message = format!(
                    "stackrestore of {:#x}, which stacksave of this frame did not give (it spans {start:#x} to {:#x})",
                    saved[lane], tops[lane]
                );
                return warp.raise(Fault::new(FaultKind::IllegalInstruction, "stack-overflow", message));
            }
            tops[lane] = saved[lane] as u32;
        }
        warp.set_tops(tops);
        Flow::Next
    })
}

fn put<const WIDE: bool>(warp: &mut Warp, op: &Op, values: &[u64; 32]) {
    // SAFETY: `d` is a slot of this frame, of 64 bits or 32.
    unsafe {
        if WIDE {
            warp.write::<u64>(op.d, values);
        } else {
            warp.write::<u32>(op.d, &values.map(|value| value as u32));
        }
    }
}

/// `alloca.type d, size{, align}`, `stacksave.type d`, `stackrestore.type a`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    let ty = modifiers.take_type().filter(|ty| matches!(ty, Type::U32 | Type::U64)).ok_or_else(|| b.unknown(i))?;
    modifiers.finish(b)?;
    if b.module.version < 73 || b.module.target < 52 {
        return Err(b.error(i, "it needs PTX 7.3 and sm_52"));
    }
    let wide = ty == Type::U64;
    let by_width = |narrow: Exec, other: Exec| if wide { other } else { narrow };
    let mut op;
    match (i.opcode.as_str(), i.operands.as_slice()) {
        ("alloca", [d, size, align @ ..]) => {
            op = Op::new(by_width(allocate::<false>(), allocate::<true>()));
            op.imm = match align {
                [] => 8,
                [Operand::Integer { value, .. }] if matches!(value, 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128) => {
                    *value as u64
                }
                _ => return Err(b.error(i, "the alignment must be a power of two from 1 to 128")),
            };
            op.a = b.read(i, size, ty)?;
            op.d = b.write(i, d, ty)?;
        }
        ("stacksave", [d]) => {
            op = Op::new(by_width(save::<false>(), save::<true>()));
            op.d = b.write(i, d, ty)?;
        }
        ("stackrestore", [a]) => {
            op = Op::new(by_width(restore::<false>(), restore::<true>()));
            op.a = b.read(i, a, ty)?;
        }
        _ => return Err(b.error(i, format!("{} operands are not what it takes", i.operands.len()))),
    }
    b.emit(op);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::{Buffer, Run, compile_error};
    use crate::machine::{FaultKind, Launch, LoadedModule, run};
    use crate::program::Program;
    use std::sync::Arc;

    fn ran(body: &str, outside: &str) -> Vec<u32> {
        let to = Buffer::zeros(128);
        let body =
            format!("mul.wide.u32 %rd9, %r0, 4;\nadd.s64 %rd9, %rd1, %rd9;\n{body}\nst.global.u32 [%rd9], %r10;");
        Run { outside, ..Run::new(&body, &[&to]) }.go().unwrap_or_else(|fault| panic!("{fault}\n{body}"));
        to.read_words()
    }

    #[test]
    fn each_lane_has_what_it_allocates() {
        // Lane n takes 4n+4 bytes, then 64 more: its words in both are its own.
        let words = ran(
            "cvt.u64.u32 %rd10, %r0;\nshl.b64 %rd10, %rd10, 2;\nadd.s64 %rd10, %rd10, 4;\nalloca.u64 %rd11, %rd10, 16;\n\
             alloca.u64 %rd12, 64;\nadd.u32 %r1, %r0, 100;\nst.local.u32 [%rd11], %r1;\nst.local.u32 [%rd12+60], %r0;\n\
             cvta.local.u64 %rd13, %rd11;\nld.u32 %r2, [%rd13];\nld.local.u32 %r3, [%rd12+60];\n\
             add.u32 %r10, %r2, %r3;\nand.b64 %rd14, %rd11, 15;\ncvt.u32.u64 %r4, %rd14;\nadd.u32 %r10, %r10, %r4;",
            "",
        );
        assert_eq!(words, (0..32).map(|lane| 100 + 2 * lane).collect::<Vec<_>>());
    }

    #[test]
    fn restoring_makes_the_same_memory_free_again() {
        let words = ran(
            "stacksave.u64 %rd10;\nalloca.u64 %rd11, 400;\nstackrestore.u64 %rd10;\nalloca.u64 %rd12, 400;\n\
             alloca.u64 %rd13, 8;\nsub.s64 %rd14, %rd12, %rd11;\nsub.s64 %rd15, %rd13, %rd12;\n\
             cvt.u32.u64 %r1, %rd14;\ncvt.u32.u64 %r2, %rd15;\nmad.lo.u32 %r10, %r1, 1000, %r2;",
            "",
        );
        assert_eq!(words, [400; 32]);
    }

    #[test]
    fn a_function_that_is_called_leaves_what_its_caller_allocated_alone() {
        let outside = ".func scribble() { .local .align 8 .b8 x[64]; .reg .b32 %i; .reg .pred %p; .reg .b64 %a; \
                       mov.u64 %a, x; mov.u32 %i, 0; L: st.local.u32 [%a], 77; add.s64 %a, %a, 4; add.u32 %i, %i, 1; \
                       setp.lt.u32 %p, %i, 16; @%p bra L; ret; }";
        let words = ran(
            "alloca.u64 %rd10, 64;\nst.local.u32 [%rd10], %r0;\nst.local.u32 [%rd10+60], 1000;\n{ call.uni scribble; }\n\
             ld.local.u32 %r1, [%rd10];\nld.local.u32 %r2, [%rd10+60];\nadd.u32 %r10, %r1, %r2;",
            outside,
        );
        assert_eq!(words, (0..32).map(|lane| 1000 + lane).collect::<Vec<_>>());
    }

    /// Recursion `depth` deep under a limit of stack.
    fn recurses(depth: u32, stack: u32) -> Result<(), FaultKind> {
        let text = "
.version 8.0
.target sm_80
.address_size 64
.func down(.param .b32 n) { .local .align 16 .b8 x[48]; .reg .b32 %n; .reg .pred %p; ld.param.u32 %n, [n];
  setp.eq.u32 %p, %n, 0; @%p bra E; sub.u32 %n, %n, 1; { .param .b32 m; st.param.b32 [m], %n; call.uni down, (m); } E: ret; }
.visible .entry k(.param .u32 n) { .reg .b32 %n; ld.param.u32 %n, [n];
  { .param .b32 m; st.param.b32 [m], %n; call.uni down, (m); } ret; }";
        let module = LoadedModule::load(Arc::new(Program::compile(text).expect("compiles")), 0).expect("loads");
        let kernel = module.kernel("k").expect("k");
        let needed = module.info(kernel).stack_bytes;
        assert!((64..200).contains(&needed), "{needed}");
        assert_eq!(module.info(kernel).local_bytes, 48);
        let mut launch = Launch::new(module, kernel, [1; 3], [32, 1, 1], depth.to_le_bytes().to_vec());
        launch.local_limit = needed + stack;
        run(&launch).map_err(|fault| {
            assert!(fault.to_string().contains("CU_LIMIT_STACK_SIZE"), "{fault}");
            fault.kind
        })
    }

    #[test]
    fn the_stack_limit_is_for_what_the_compiler_cannot_know() {
        assert_eq!(recurses(0, 0), Ok(()));
        assert_eq!(recurses(5, 1024), Ok(()));
        assert_eq!(recurses(100, 1024), Err(FaultKind::StackOverflow));
        assert_eq!(recurses(100, 16 << 10), Ok(()));
    }

    #[test]
    fn allocating_more_than_the_stack_is_an_overflow() {
        let fault = Run::new("alloca.u64 %rd10, 10000000;", &[]).go().expect_err("too much");
        assert_eq!(fault.kind, FaultKind::StackOverflow);
        let fault = Run::new("mov.u64 %rd10, 4096;\nstackrestore.u64 %rd10;", &[]).go().expect_err("never saved");
        assert_eq!(fault.kind, FaultKind::IllegalInstruction);
    }

    #[test]
    fn wrong_forms_are_refused() {
        for body in ["alloca.u16 %h1, %h2;", "alloca.u64 %rd1, %rd2, 3;", "stacksave.u64 %rd1, %rd2;"] {
            compile_error(body);
        }
    }
}
