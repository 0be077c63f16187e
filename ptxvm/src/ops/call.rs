//! `call`: to functions of the module, through registers, and to what the CUDA device library provides.

use super::system;
use crate::{
    machine::{
        fault::{Fault, FaultKind},
        launch::FUNCTION_WINDOW,
        op::{Exec, Flow, Op, free},
        warp::{Frame, Warp},
    },
    monitor::{Access, AccessKind, AccessSpace, Ordering},
    program::{
        CallSite, CompileError, Formal,
        builder::{Builder, Modifiers},
        draft::Control,
        symbols::Symbol,
    },
    ptx::ast::{Instruction, Operand, Type},
};

fn call_direct() -> Exec {
    free(|warp, op| {
        let site = &warp.function().calls[op.imm as usize];
        match site.target {
            Some(target) => warp.call(target, site),
            None => Flow::Next,
        }
    })
}

fn call_indirect() -> Exec {
    free(|warp, op| {
        // SAFETY: `a` is a 64-bit slot of this frame.
        let addresses = unsafe { warp.lanes::<u64>(op.a) };
        let address = addresses[warp.leader()];
        let mut same = 0;
        for (lane, &other) in addresses.iter().enumerate() {
            same |= u32::from(other == address) << lane;
        }
        same &= warp.mask;
        if same != warp.mask {
            let here = warp.pc;
            return warp.part(same, here, here, op.x);
        }
        let site = &warp.function().calls[op.imm as usize];
        let target = address.checked_sub(FUNCTION_WINDOW).filter(|number| {
            warp.running().program().functions.get(*number as usize).is_some_and(|function| {
                !function.is_kernel
                    && function.params.len() == site.arguments.len()
                    && function.returns.len() == site.returns.len()
            })
        });
        match target {
            Some(target) => warp.call(target as u32, site),
            None => warp.raise(Fault::new(
                FaultKind::InvalidPc,
                "invalid-call",
                format!("indirect call to {address:#x}, which is no function with these parameters"),
            )),
        }
    })
}

impl Warp {
    /// Calls `target` with the arguments of `site`; lanes come back behind the current operation.
    fn call(&mut self, target: u32, site: &CallSite) -> Flow {
        let running = self.running();
        let function = &running.program().functions[target as usize];
        let local_base = self.next_frame();
        if !self.reserve_local(local_base + function.local_bytes) || self.frames.len() > DEEPEST {
            return self.stack_overflow(&format!("a call of {}", function.name));
        }
        let frame = Frame {
            registers: running.registers_of(target),
            function: target,
            local_base,
            tops: None,
            caller: 0,
            call_pc: 0,
            used: true,
        };
        let (mask, caller, return_pc) = (self.mask, self.frame, self.pc + 1);
        self.enter(target, frame, return_pc);
        let callee = self.frame;
        for (formal, actual) in function.params.iter().zip(&site.arguments) {
            self.copy_formal((caller, *actual), (callee, *formal), mask);
        }
        Flow::Jump
    }

    /// Copies results of a frame that is left into those of the call it came from.
    pub(crate) fn copy_returns(&mut self, callee: u32, lanes: u32) {
        let program = self.running().program();
        let frame = &self.frames[callee as usize];
        let (caller, pc) = (frame.caller, frame.call_pc - 1);
        let function = &program.functions[frame.function as usize];
        let caller_code = &program.functions[self.frames[caller as usize].function as usize];
        let site = &caller_code.calls[caller_code.ops[pc as usize].imm as usize];
        for (formal, actual) in function.returns.iter().zip(&site.returns) {
            self.copy_formal((callee, *formal), (caller, *actual), lanes);
        }
    }

    /// Copies a parameter or result from one frame to another, for some lanes.
    fn copy_formal(&mut self, from: (u32, Formal), to: (u32, Formal), lanes: u32) {
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            if let (Formal::Frame { offset, bytes }, Formal::Frame { offset: target, bytes: room }) = (from.1, to.1) {
                let source = self.local_at(from.0, offset, lane);
                let target = self.local_at(to.0, target, lane);
                self.local.copy_within(source..source + bytes.min(room) as usize, target);
            } else {
                let bytes = self.read_formal(from.0, from.1, lane);
                self.write_formal(to.0, to.1, lane, &bytes);
            }
        }
        if let Formal::Frame { offset, bytes } = to.1
            && let Some(monitor) = self.monitor()
        {
            // A parameter that is passed on is written, whatever lanes read of it before.
            let start = u64::from(self.frames[to.0 as usize].local_base + offset);
            let mask = std::mem::replace(&mut self.mask, lanes);
            let op = &self.function().ops[(self.pc as usize).min(self.function().ops.len() - 1)];
            let access = Access {
                space: AccessSpace::Local,
                kind: AccessKind::Write,
                bytes,
                mask: lanes,
                addresses: &[start; 32],
                ordering: Ordering::default(),
                instruction: op.instruction,
            };
            monitor.access(self, &access);
            self.mask = mask;
        }
    }

    /// The first bytes of a parameter or result in a lane (all of them, for registers and scalars).
    pub(super) fn read_formal(&mut self, frame: u32, formal: Formal, lane: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        match formal {
            Formal::Frame { offset, bytes: count } => {
                let start = self.local_at(frame, offset, lane);
                let count = count.min(16) as usize;
                bytes[..count].copy_from_slice(&self.local[start..start + count]);
            }
            Formal::Register { slot, ty } => {
                let (pointer, width) = self.lane_pointer(frame, slot, ty, lane);
                // SAFETY: the slot is one of that frame's, `width` bytes per lane, or a predicate's word.
                unsafe { std::ptr::copy_nonoverlapping(pointer, bytes.as_mut_ptr(), width) };
                if ty == Type::Pred {
                    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    bytes = [0; 16];
                    bytes[0] = (word >> lane & 1) as u8;
                }
            }
        }
        bytes
    }

    /// Writes the first bytes of a parameter or result in a lane.
    pub(super) fn write_formal(&mut self, frame: u32, formal: Formal, lane: u32, bytes: &[u8; 16]) {
        match formal {
            Formal::Frame { offset, bytes: count } => {
                let start = self.local_at(frame, offset, lane);
                let count = count.min(16) as usize;
                self.local[start..start + count].copy_from_slice(&bytes[..count]);
            }
            Formal::Register { slot, ty } => {
                let (pointer, width) = self.lane_pointer(frame, slot, ty, lane);
                // SAFETY: as in `read_formal`.
                unsafe {
                    if ty == Type::Pred {
                        let word = pointer.cast::<u32>();
                        *word = *word & !(1 << lane) | u32::from(bytes[0] & 1) << lane;
                    } else {
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, width);
                    }
                }
            }
        }
    }

    fn local_at(&self, frame: u32, offset: u32, lane: u32) -> usize {
        lane as usize * self.local_bytes as usize + (self.frames[frame as usize].local_base + offset) as usize
    }

    /// Where a lane of a register lies (the whole word of a predicate), and its bytes.
    fn lane_pointer(&mut self, frame: u32, slot: u32, ty: Type, lane: u32) -> (*mut u8, usize) {
        let (width, lane) = match ty.bits() {
            128 => (16, lane),
            64 => (8, lane),
            _ if ty == Type::Pred => (4, 0),
            _ => (4, lane),
        };
        let start = slot as usize + lane as usize * width;
        (self.frames[frame as usize].registers.as_mut_ptr().cast::<u8>().wrapping_add(start), width)
    }

    /// Makes local memory of at least `bytes` per lane, if the limit allows.
    pub(crate) fn reserve_local(&mut self, bytes: u32) -> bool {
        if bytes <= self.local_bytes {
            return true;
        }
        let limit = self.running().local_limit();
        if bytes > limit {
            return false;
        }
        let wanted = bytes.next_power_of_two().min(limit).max(bytes).next_multiple_of(16);
        let mut grown = vec![0u8; wanted as usize * 32];
        for (target, source) in
            grown.chunks_exact_mut(wanted as usize).zip(self.local.chunks_exact(self.local_bytes.max(1) as usize))
        {
            target[..source.len()].copy_from_slice(source);
        }
        self.local = grown;
        self.local_bytes = wanted;
        true
    }
}

/// Calls nested deeper than this overflow the stack whatever their frames need.
const DEEPEST: usize = 1 << 14;

/// `call`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut modifiers = Modifiers::of(i);
    modifiers.take("uni");
    modifiers.finish(b)?;
    let Some(call) = &i.call else { return Err(b.error(i, "a call without a target")) };
    let target = match b.lookup(&call.target) {
        Some(Symbol::Function(number)) => Some(*number),
        Some(Symbol::Register { .. }) => None,
        _ => return system::call(i, call, b),
    };
    let arguments = call.arguments.iter().map(|operand| b.actual(i, operand, false)).collect::<Result<_, _>>()?;
    let returns = call.returns.iter().map(|operand| b.actual(i, operand, true)).collect::<Result<_, _>>()?;
    let mut op = Op::new(if target.is_some() { call_direct() } else { call_indirect() });
    if target.is_none() {
        op.a = b.read(i, &Operand::Name(call.target.clone()), Type::U64)?;
    }
    op.imm = b.add_call(CallSite { target, arguments, returns }) as u64;
    b.emit_control(op, Control::Call);
    Ok(())
}

impl Builder<'_> {
    /// Where an argument or result of a call lies in this frame.
    pub(crate) fn actual(&mut self, i: &Instruction, operand: &Operand, result: bool) -> Result<Formal, CompileError> {
        if let Operand::Name(name) = operand
            && let Some(Symbol::Frame { offset, bytes }) = self.lookup(name)
        {
            return Ok(Formal::Frame { offset: *offset, bytes: *bytes });
        }
        let ty = self.register_type(operand).unwrap_or(Type::B64);
        let slot = if result { self.write(i, operand, ty)? } else { self.read(i, operand, ty)? };
        Ok(Formal::Register { slot, ty })
    }

    /// Notes a call.
    pub(crate) fn add_call(&mut self, call: CallSite) -> usize {
        self.calls.push(call);
        self.calls.len() - 1
    }
}
