//! `mbarrier`: counted barriers that are objects in shared memory.

#[cfg(test)]
mod tests;

use super::{
    async_copy,
    memory::{AccessOp, op_space, pointers_of, register_address, take_scope, take_space},
};
use crate::{
    machine::{
        fault::{Fault, FaultKind},
        op::{Exec, Flow, Op, free, map1},
        warp::Warp,
    },
    monitor::{AccessKind, MbarrierEvent, Ordering},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};

/// The largest count of an mbarrier.
const MOST: u32 = (1 << 20) - 1;

/// The 64 bits of an mbarrier object. The layout is this machine's own, as a device's is opaque: two bits that tell an
/// object from anything else, the phase, pending and expected arrivals, and the bytes still to come, signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    phase: bool,
    pending: u32,
    expected: u32,
    transactions: i32,
}

const MARK: u64 = 0b10 << 62;

impl State {
    fn unpack(bits: u64) -> Option<Self> {
        (bits >> 62 == 0b10).then_some(Self {
            phase: bits >> 61 & 1 != 0,
            pending: (bits >> 41) as u32 & MOST,
            expected: (bits >> 21) as u32 & MOST,
            transactions: ((bits as u32) << 11) as i32 >> 11,
        })
    }

    fn pack(self) -> u64 {
        MARK | u64::from(self.phase) << 61
            | u64::from(self.pending) << 41
            | u64::from(self.expected) << 21
            | u64::from(self.transactions as u32 & 0x1f_ffff)
    }

    /// Ends the phase if nothing is outstanding.
    fn settle(&mut self) {
        if self.pending == 0 && self.transactions == 0 {
            self.phase = !self.phase;
            self.pending = self.expected;
        }
    }
}

/// What an operation does to the object, in `Op::x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Action {
    Init,
    Invalidate,
    /// `expect`: bytes are announced first, and the arrival counts one.
    Arrive {
        drop: bool,
        complete: bool,
        expect: bool,
    },
    Expect,
    Complete,
}

impl Action {
    const ALL: [Self; 12] = [
        Self::Init,
        Self::Invalidate,
        Self::Expect,
        Self::Complete,
        Self::Arrive { drop: false, complete: false, expect: false },
        Self::Arrive { drop: false, complete: false, expect: true },
        Self::Arrive { drop: false, complete: true, expect: false },
        Self::Arrive { drop: false, complete: true, expect: true },
        Self::Arrive { drop: true, complete: false, expect: false },
        Self::Arrive { drop: true, complete: false, expect: true },
        Self::Arrive { drop: true, complete: true, expect: false },
        Self::Arrive { drop: true, complete: true, expect: true },
    ];

    fn number(self) -> u32 {
        Self::ALL.iter().position(|other| *other == self).unwrap_or(0) as u32
    }

    fn event(self) -> Option<MbarrierEvent> {
        match self {
            Self::Init => Some(MbarrierEvent::Init),
            Self::Invalidate => Some(MbarrierEvent::Invalidate),
            Self::Arrive { .. } => Some(MbarrierEvent::Arrive),
            Self::Expect | Self::Complete => None,
        }
    }

    /// What the object's bits become, or what is wrong.
    fn apply(self, bits: u64, operand: u32) -> Result<u64, String> {
        if self == Self::Init {
            if operand == 0 || operand > MOST {
                return Err(format!("mbarrier.init with a count of {operand}, expected 1 to {MOST}"));
            }
            let state = State { phase: false, pending: operand, expected: operand, transactions: 0 };
            return Ok(state.pack());
        }
        let mut state = State::unpack(bits).ok_or("this is no initialised mbarrier object")?;
        match self {
            Self::Init | Self::Invalidate => return Ok(0),
            Self::Expect => state.add_transactions(i64::from(operand))?,
            Self::Complete => {
                state.add_transactions(-i64::from(operand))?;
                state.settle();
            }
            Self::Arrive { drop, complete, expect } => {
                let count = if expect {
                    state.add_transactions(i64::from(operand))?;
                    1
                } else {
                    operand
                };
                if count > state.pending || count == 0 {
                    return Err(format!("{count} arrivals where {} are pending", state.pending));
                }
                state.pending -= count;
                if drop {
                    state.expected -= count.min(state.expected);
                }
                if !complete && state.pending == 0 {
                    return Err("an arrival with .noComplete that completes the phase".to_owned());
                }
                state.settle();
            }
        }
        Ok(state.pack())
    }
}

impl State {
    fn add_transactions(&mut self, bytes: i64) -> Result<(), String> {
        let sum = i64::from(self.transactions) + bytes;
        if sum.unsigned_abs() > u64::from(MOST) {
            return Err(format!("a transaction count of {sum}, which does not fit an mbarrier"));
        }
        self.transactions = sum as i32;
        Ok(())
    }
}

fn misuse(message: String) -> Fault {
    Fault::new(FaultKind::IllegalInstruction, "invalid-mbarrier", message)
}

/// Pointers to the objects of the active lanes, which must lie in shared memory, and their offsets there.
fn objects(warp: &mut Warp, op: &Op) -> Result<([u64; 32], u64), Flow> {
    let pointers = pointers_of(warp, op, op.a, AccessOp(op.y), 8).ok_or(Flow::Fault)?;
    let shared = warp.block().shared();
    let (start, end) = (shared.as_ptr() as u64, shared.as_ptr() as u64 + shared.len() as u64);
    for lane in (0..32).filter(|lane| warp.mask >> lane & 1 != 0) {
        if !(start..end).contains(&pointers[lane]) {
            let message = format!("an mbarrier at 0x{:x}, which is not in shared memory", pointers[lane]);
            warp.raise(Fault::new(FaultKind::InvalidAddressSpace, "invalid-mbarrier", message).in_lane(lane));
            return Err(Flow::Fault);
        }
    }
    Ok((pointers, start))
}

/// Tells the monitor, once for each object that active lanes name.
fn tell(warp: &mut Warp, objects: &[u64; 32], start: u64, event: MbarrierEvent) {
    let Some(monitor) = warp.monitor() else { return };
    let mask = warp.mask;
    let mut left = mask;
    while left != 0 {
        let object = objects[left.trailing_zeros() as usize];
        let same = (0..32).filter(|&lane| left >> lane & 1 != 0 && objects[lane] == object);
        let same = same.fold(0u32, |mask, lane| mask | 1 << lane);
        left &= !same;
        warp.mask = same;
        monitor.mbarrier(warp, object - start, event);
    }
    warp.mask = mask;
}

/// Writes what an object has become; the end of a phase is told to the copies that it tracks.
fn put(warp: &mut Warp, object: *mut u64, start: u64, before: u64, after: u64) {
    // SAFETY: `objects` has checked it.
    unsafe { object.write(after) };
    if let (Some(before), Some(after)) = (State::unpack(before), State::unpack(after))
        && before.phase != after.phase
    {
        async_copy::end_phase(warp, object as u64);
        if let Some(monitor) = warp.monitor() {
            monitor.mbarrier(warp, object as u64 - start, MbarrierEvent::Complete);
        }
    }
}

/// Changes the object at `[a + imm]` by action `x` with operand `b`; `d` is what it was.
fn change() -> Exec {
    free(|warp, op| {
        let (pointers, start) = match objects(warp, op) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        let action = Action::ALL[op.x as usize % Action::ALL.len()];
        if let Some(event) = action.event() {
            tell(warp, &pointers, start, event);
        }
        // SAFETY: `b` is a 32-bit slot, `d` a 64-bit one.
        let operands = unsafe { warp.lanes::<u32>(op.b) };
        let mut results = [0u64; 32];
        for lane in 0..32 {
            if warp.mask >> lane & 1 == 0 {
                continue;
            }
            let object = pointers[lane] as *mut u64;
            // SAFETY: `objects` has checked it.
            let bits = unsafe { object.read() };
            match action.apply(bits, operands[lane]) {
                Ok(changed) => put(warp, object, start, bits, changed),
                Err(reason) => {
                    let message = format!("mbarrier at shared offset 0x{:x}: {reason}", pointers[lane] - start);
                    return warp.raise(misuse(message).in_lane(lane));
                }
            }
            results[lane] = bits;
        }
        // SAFETY: as above.
        unsafe { warp.write::<u64>(op.d, &results) };
        Flow::Next
    })
}

/// `d` = whether the phase of token `b` (`x`: of parity `b`) of the object at `[a + imm]` is complete.
fn test() -> Exec {
    free(|warp, op| {
        let (pointers, start) = match objects(warp, op) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        let mut complete = 0u32;
        for lane in 0..32 {
            if warp.mask >> lane & 1 == 0 {
                continue;
            }
            // SAFETY: `objects` has checked it.
            let bits = unsafe { (pointers[lane] as *const u64).read() };
            let Some(state) = State::unpack(bits) else {
                let place = pointers[lane] - start;
                let message = format!("mbarrier at shared offset 0x{place:x}: this is no initialised mbarrier object");
                return warp.raise(misuse(message).in_lane(lane));
            };
            let phase = if op.x != 0 {
                // SAFETY: `b` is a 32-bit slot.
                let parities = unsafe { warp.lanes::<u32>(op.b) };
                parities[lane] & 1 != 0
            } else {
                // SAFETY: `b` is a 64-bit slot.
                match State::unpack(unsafe { warp.lanes::<u64>(op.b) }[lane]) {
                    Some(token) => token.phase,
                    None => return warp.raise(misuse("a token that no arrival returned".to_owned()).in_lane(lane)),
                }
            };
            complete |= u32::from(state.phase != phase) << lane;
        }
        let mask = warp.mask;
        if complete != 0 {
            warp.mask = complete;
            tell(warp, &pointers, start, MbarrierEvent::Observe);
            warp.mask = mask;
            async_copy::observe(warp, &pointers, complete);
        }
        if complete != mask {
            warp.spinning += 1;
        }
        // SAFETY: `d` is a predicate slot.
        unsafe { warp.write_predicate(op.d, complete) };
        Flow::Next
    })
}

/// `cp.async.mbarrier.arrive`: the object tracks the lanes' copies; `x`: that counts as an arrival.
fn copy_arrive() -> Exec {
    free(|warp, op| {
        let (pointers, start) = match objects(warp, op) {
            Ok(found) => found,
            Err(flow) => return flow,
        };
        tell(warp, &pointers, start, MbarrierEvent::Track);
        tell(warp, &pointers, start, MbarrierEvent::Arrive);
        async_copy::track(warp, &pointers);
        for lane in 0..32 {
            if warp.mask >> lane & 1 == 0 {
                continue;
            }
            let object = pointers[lane] as *mut u64;
            // SAFETY: `objects` has checked it.
            let bits = unsafe { object.read() };
            // Without .noinc one more arrival is expected first, so that nothing changes but what an end of a phase does.
            let result = if op.x != 0 {
                Action::Arrive { drop: false, complete: true, expect: false }.apply(bits, 1)
            } else {
                State::unpack(bits).map(State::pack).ok_or_else(|| "this is no initialised mbarrier object".to_owned())
            };
            match result {
                Ok(changed) => put(warp, object, start, bits, changed),
                Err(reason) => {
                    let message = format!("mbarrier at shared offset 0x{:x}: {reason}", pointers[lane] - start);
                    return warp.raise(misuse(message).in_lane(lane));
                }
            }
        }
        Flow::Next
    })
}

fn address(
    i: &Instruction,
    b: &mut Builder<'_>,
    operand: &Operand,
    space: Option<Space>,
    kind: AccessKind,
    op: &mut Op,
) -> Result<(), CompileError> {
    if !matches!(space, None | Some(Space::Shared)) {
        return Err(b.error(i, "an mbarrier lies in shared memory"));
    }
    let narrow = register_address(i, b, operand, space, op)?;
    // Strong: an object's words do not race with themselves. What it orders the monitor hears by events.
    let ordering = Ordering { strong: true, ..Ordering::default() };
    op.y = AccessOp::new(kind, ordering, op_space(space), narrow).0;
    Ok(())
}

/// `cp.async.mbarrier.arrive`, with `cp`, `async` and `mbarrier` taken off.
pub(super) fn decode_copy_arrive(
    i: &Instruction,
    b: &mut Builder<'_>,
    mut m: Modifiers<'_>,
) -> Result<(), CompileError> {
    let arrive = m.take("arrive");
    let mut op = Op::new(copy_arrive());
    op.x = m.take("noinc").into();
    let space = take_space(&mut m);
    if !arrive || m.take_type() != Some(Type::B64) {
        return Err(b.unknown(i));
    }
    m.finish(b)?;
    let [object] = b.operands::<1>(i)?;
    address(i, b, object, space, AccessKind::Atomic, &mut op)?;
    b.emit(op);
    Ok(())
}

/// `mbarrier`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    const FORMS: &[&str] = &[
        "init",
        "inval",
        "arrive",
        "arrive_drop",
        "expect_tx",
        "complete_tx",
        "test_wait",
        "try_wait",
        "pending_count",
    ];
    let form = m.take_any(FORMS).ok_or_else(|| b.unknown(i))?;
    if m.take_type() != Some(Type::B64) {
        return Err(b.unknown(i));
    }
    match form {
        "pending_count" => {
            m.finish(b)?;
            b.map_instruction(i, map1(|token: u64| (token >> 41) as u32 & MOST), Type::U32, &[Type::B64])
        }
        "test_wait" | "try_wait" => decode_test(i, b, m, form == "try_wait"),
        form => decode_change(i, b, m, form),
    }
}

fn decode_test(i: &Instruction, b: &mut Builder<'_>, mut m: Modifiers<'_>, hint: bool) -> Result<(), CompileError> {
    let parity = m.take("parity");
    m.take_any(&["acquire", "relaxed"]);
    take_scope(&mut m);
    let space = take_space(&mut m);
    m.finish(b)?;
    let (d, object, phase) = match i.operands.as_slice() {
        [d, object, phase] => (d, object, phase),
        [d, object, phase, time] if hint => {
            b.read(i, time, Type::U32)?;
            (d, object, phase)
        }
        other => return Err(b.error(i, format!("found {} operands, expected 3", other.len()))),
    };
    let mut op = Op::new(test());
    address(i, b, object, space, AccessKind::Read, &mut op)?;
    op.x = parity.into();
    op.b = b.read(i, phase, if parity { Type::U32 } else { Type::B64 })?;
    op.d = b.write_predicate(i, d)?;
    b.emit(op);
    Ok(())
}

fn decode_change(i: &Instruction, b: &mut Builder<'_>, mut m: Modifiers<'_>, form: &str) -> Result<(), CompileError> {
    let arrives = matches!(form, "arrive" | "arrive_drop");
    let action = match form {
        "init" => Action::Init,
        "inval" => Action::Invalidate,
        "expect_tx" => Action::Expect,
        "complete_tx" => Action::Complete,
        form => {
            Action::Arrive { drop: form == "arrive_drop", complete: !m.take("noComplete"), expect: m.take("expect_tx") }
        }
    };
    if form != "init" && form != "inval" {
        m.take_any(if arrives { &["release", "relaxed"] } else { &["relaxed"] });
        take_scope(&mut m);
    }
    let space = take_space(&mut m);
    m.finish(b)?;
    let mut operands = i.operands.as_slice();
    let mut op = Op::new(change());
    op.x = action.number();
    op.d = if arrives {
        let Some((state, others)) = operands.split_first() else { return Err(b.unknown(i)) };
        operands = others;
        b.write(i, state, Type::B64)?
    } else {
        let unused = b.temporary(Type::B64);
        b.writes(unused)
    };
    let (object, count) = match operands {
        [object] if matches!(form, "inval" | "arrive" | "arrive_drop") && !i.has("expect_tx") => (object, None),
        [object, count] if form != "inval" => (object, Some(count)),
        other => return Err(b.error(i, format!("found {} operands after the destination", other.len()))),
    };
    let kind = if action == Action::Init { AccessKind::Write } else { AccessKind::Atomic };
    address(i, b, object, space, kind, &mut op)?;
    op.b = match count {
        Some(count) => b.read(i, count, Type::U32)?,
        None => {
            let one = b.constant(Type::U32, 1);
            b.reads(one)
        }
    };
    b.emit(op);
    Ok(())
}
