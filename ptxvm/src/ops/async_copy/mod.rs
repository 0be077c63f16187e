//! `cp.async`: copies from global to shared memory that are performed late, when they are waited for, so that a wait
//! that is missing or too weak is seen.

#[cfg(test)]
mod tests;

use super::memory::{
    AccessOp, OpSpace, cache_policy,
    layout::{FastSpace, Global, Shared32, Shared64, Word, spread},
    register_address, take_hints, take_space,
};
use crate::{
    machine::{
        lanes::Lane,
        op::{Body, Exec, Flow, Op, exec, free},
        warp::Warp,
    },
    monitor::{AccessKind, Ordering},
    program::{
        CompileError,
        builder::{Builder, Modifiers},
    },
    ptx::ast::{Instruction, Operand, Space, Type},
};
use std::{collections::VecDeque, marker::PhantomData};

/// The copies of a warp that are under way.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    // Boxed, so that they are filled in place and used again.
    pending: VecDeque<Box<Pending>>,
    #[expect(clippy::vec_box, reason = "they go from one list to the other as they are")]
    spare: Vec<Box<Pending>>,
    /// Groups that each lane has committed: the number of its open group.
    committed: [u32; 32],
    /// Copies issued so far.
    issued: u64,
    tracked: Vec<Tracked>,
}

/// Copies that an mbarrier tracks: they are performed when somebody has seen the phase complete that they belong to.
#[derive(Debug)]
struct Tracked {
    /// Where the object is.
    object: u64,
    mask: u32,
    /// All copies of those lanes before this number.
    before: u64,
    /// The phase is over.
    over: bool,
}

/// What one `cp.async` of some lanes still has to copy.
#[derive(Debug, Default)]
struct Pending {
    mask: u32,
    group: u32,
    number: u64,
    bytes: u32,
    /// Every lane copies all of the bytes.
    whole: bool,
    /// Bytes that are copied; the rest becomes zero.
    filled: [u8; 32],
    from: [u64; 32],
    to: [u64; 32],
}

impl Pending {
    /// # Safety
    /// The memory of both sides must still be there.
    unsafe fn perform(&self, mask: u32) {
        // SAFETY: the caller's contract.
        unsafe {
            match self.bytes {
                16 if self.whole => self.move_whole::<u128>(mask),
                8 if self.whole => self.move_whole::<u64>(mask),
                4 if self.whole => self.move_whole::<u32>(mask),
                _ => {
                    for lane in lanes(mask) {
                        let (from, to) = (self.from[lane] as *const u8, self.to[lane] as *mut u8);
                        let filled = usize::from(self.filled[lane]);
                        std::ptr::copy_nonoverlapping(from, to, filled);
                        std::ptr::write_bytes(to.add(filled), 0, self.bytes as usize - filled);
                    }
                }
            }
        }
    }

    unsafe fn move_whole<T: Copy>(&self, mask: u32) {
        let each = |lane: usize| {
            // SAFETY: the caller of `perform` vouches for the memory.
            unsafe { (self.to[lane] as *mut T).write_unaligned((self.from[lane] as *const T).read_unaligned()) }
        };
        if mask == u32::MAX {
            (0..32).for_each(each);
        } else {
            lanes(mask).for_each(each);
        }
    }
}

impl Copies {
    /// Performs copies of the lanes of `mask` whose group is older than the lane's newest `newest` ones; `open`: those
    /// of the open group too.
    ///
    /// # Safety
    /// The memory that the copies work on must still be there.
    unsafe fn perform(&mut self, mask: u32, newest: u32, open: bool) {
        let committed = &self.committed;
        let leader = mask.trailing_zeros() as usize & 31;
        let alike = self.alike();
        for copy in &mut self.pending {
            let mut done = copy.mask & mask;
            if !open && alike {
                if copy.group >= committed[leader].saturating_sub(newest) {
                    continue;
                }
            } else if !open {
                done = lanes(done)
                    .filter(|&lane| copy.group < committed[lane].saturating_sub(newest))
                    .fold(0u32, |mask, lane| mask | 1 << lane);
            }
            copy.mask &= !done;
            // SAFETY: the caller's contract; bounds of both sides were checked when the copy was issued.
            unsafe { copy.perform(done) };
        }
        self.tidy();
    }

    /// Lets go of what is done.
    fn tidy(&mut self) {
        while self.pending.front().is_some_and(|copy| copy.mask == 0) {
            self.spare.extend(self.pending.pop_front());
        }
    }

    /// Whether all lanes have committed equally many groups.
    fn alike(&self) -> bool {
        self.committed == [self.committed[0]; 32]
    }

    /// A copy to be filled in.
    fn blank(&mut self) -> Box<Pending> {
        self.spare.pop().unwrap_or_default()
    }

    fn push(&mut self, mut copy: Box<Pending>) {
        copy.number = self.issued;
        self.issued += 1;
        self.pending.push_back(copy);
    }

    /// The lanes' copies so far belong to the current phase of an mbarrier.
    fn track(&mut self, object: u64, mask: u32) {
        if self.pending.iter().any(|copy| copy.mask & mask != 0) {
            self.tracked.push(Tracked { object, mask, before: self.issued, over: false });
        }
    }

    /// The phase of an mbarrier is over.
    fn end_phase(&mut self, object: u64) {
        self.tracked.iter_mut().filter(|tracked| tracked.object == object).for_each(|tracked| tracked.over = true);
    }

    /// Somebody has seen that the phase before the current one is over.
    ///
    /// # Safety
    /// As [`Self::perform`].
    unsafe fn observe(&mut self, object: u64) {
        let pending = &mut self.pending;
        self.tracked.retain(|tracked| {
            let due = tracked.over && tracked.object == object;
            for copy in pending.iter_mut().filter(|copy| due && copy.number < tracked.before) {
                let done = copy.mask & tracked.mask;
                copy.mask &= !done;
                // SAFETY: the caller's contract.
                unsafe { copy.perform(done) };
            }
            !due
        });
        self.tidy();
    }

    fn commit(&mut self, mask: u32) {
        for lane in 0..32 {
            self.committed[lane] += mask >> lane & 1;
        }
    }
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |lane| mask >> lane & 1 != 0)
}

/// Issues a copy of `x` bytes from `[b + imm's high half]` to `[a + imm's low half]`, `y` says what
/// `c` is: nothing, the source's size, or a predicate that ignores the source (or its opposite).
struct Issue<T>(PhantomData<T>);

impl<T: FastSpace> Body for Issue<T>
where
    <T::Address as Lane>::Stored: Word,
{
    #[inline(always)]
    unsafe fn run(warp: &mut Warp, op: &Op) -> Flow {
        // SAFETY: the decoder put addresses of shared memory into `a`, of global memory into `b`.
        unsafe { issue_copy::<T>(warp, op) }
    }
}

#[inline(always)]
unsafe fn issue_copy<T: FastSpace>(warp: &mut Warp, op: &Op) -> Flow
where
    <T::Address as Lane>::Stored: Word,
{
    let mut copy = warp.copies.blank();
    copy.bytes = op.x;
    copy.whole = op.y & 3 == 0;
    // SAFETY: the caller's contract.
    if unsafe { !resolve_both::<T>(warp, op, &mut copy) } {
        return Flow::Fault;
    }
    let mask = warp.mask;
    if warp.running().checked() {
        for lane in lanes(mask) {
            // SAFETY: checked just now. Whoever reads it before the copy has been waited for gets NaNs.
            unsafe { std::ptr::write_bytes(copy.to[lane] as *mut u8, 0xff, copy.bytes as usize) };
        }
    }
    (copy.mask, copy.group) = (mask, warp.copies.committed[warp.leader()]);
    if !warp.copies.alike() {
        // A part for each group.
        for lane in lanes(mask & (mask - 1)) {
            let group = warp.copies.committed[lane];
            if group != copy.group {
                let mut other = warp.copies.blank();
                *other = Pending { mask: 1 << lane, group, ..*copy };
                copy.mask &= !(1 << lane);
                warp.copies.push(other);
            }
        }
    }
    warp.copies.push(copy);
    Flow::Next
}

/// Where the lanes copy from and to. False: the fault is set.
#[inline(always)]
unsafe fn resolve_both<T: FastSpace>(warp: &mut Warp, op: &Op, copy: &mut Pending) -> bool
where
    <T::Address as Lane>::Stored: Word,
{
    let weak = Ordering::default();
    let to_op = Op { imm: i64::from(op.imm as u32 as i32) as u64, ..*op };
    let from_op = Op { imm: (op.imm as i64 >> 32) as u64, ..*op };
    let to = AccessOp::new(AccessKind::AsyncWrite, weak, OpSpace::Shared, size_of::<T::Address>() == 4);
    let from = AccessOp::new(AccessKind::AsyncRead, weak, OpSpace::Global, false);
    let bytes = u64::from(copy.bytes);
    // SAFETY: the caller's contract.
    unsafe {
        if !spread::<T>(warp, &to_op, op.a, to, bytes, &mut copy.to) {
            return false;
        }
        if copy.whole {
            return spread::<Global>(warp, &from_op, op.b, from, bytes, &mut copy.from);
        }
    }
    copy.filled = if op.y & 3 == 1 {
        // SAFETY: a 32-bit slot.
        unsafe { warp.lanes::<u32>(op.c) }.map(|size| u64::from(size).min(bytes) as u8)
    } else {
        // SAFETY: a predicate slot.
        let ignored = unsafe { warp.predicate(op.c) } ^ if op.y & 3 == 3 { u32::MAX } else { 0 };
        std::array::from_fn(|lane| if ignored >> lane & 1 != 0 { 0 } else { bytes as u8 })
    };
    // A lane that copies nothing may have any source address, as long as nothing is read there.
    let mask = warp.mask;
    let filled = copy.filled;
    let lanes_of = |mask: u32, size: u8| {
        lanes(mask).filter(|&lane| filled[lane] == size).fold(0u32, |mask, lane| mask | 1 << lane)
    };
    let mut reading = mask & !lanes_of(mask, 0);
    copy.whole = lanes_of(mask, bytes as u8) == mask;
    copy.from = copy.to;
    while reading != 0 {
        let size = filled[reading.trailing_zeros() as usize];
        let same = lanes_of(reading, size);
        reading &= !same;
        // Only the bytes that are copied have to be there. They are looked at in pieces of powers of two, the largest first.
        let mut offset = 0;
        for piece in [16u64, 8, 4, 2, 1].into_iter().filter(|piece| u64::from(size) & piece != 0) {
            let shifted = Op { imm: from_op.imm.wrapping_add(offset), ..from_op };
            let mut pointers = [0; 32];
            warp.mask = same;
            // SAFETY: the caller's contract.
            let good = unsafe { spread::<Global>(warp, &shifted, op.b, from, piece, &mut pointers) };
            warp.mask = mask;
            if !good {
                return false;
            }
            if offset == 0 {
                lanes(same).for_each(|lane| copy.from[lane] = pointers[lane]);
            }
            offset += piece;
        }
    }
    true
}

fn commit() -> Exec {
    free(|warp, _| {
        if let Some(monitor) = warp.monitor() {
            monitor.commit_copies(warp);
        }
        let mask = warp.mask;
        warp.copies.commit(mask);
        Flow::Next
    })
}

/// Waits until all but the newest `x` groups are complete; `y`: until everything is.
fn wait() -> Exec {
    free(|warp, op| {
        if let Some(monitor) = warp.monitor() {
            if op.y != 0 {
                // What has not been committed is waited for too.
                monitor.commit_copies(warp);
            }
            monitor.wait_copies(warp, op.x);
        }
        let mask = warp.mask;
        // SAFETY: shared memory lives as long as the block; sources were allocated when the copy was issued, and the
        // range they lie in stays mapped when it is freed.
        unsafe { warp.copies.perform(mask, op.x, op.y != 0) };
        Flow::Next
    })
}

/// The copies of the active lanes so far are tracked by mbarriers: they are there once a phase has been seen complete.
pub(super) fn track(warp: &mut Warp, objects: &[u64; 32]) {
    let mut left = warp.mask;
    while left != 0 {
        let object = objects[left.trailing_zeros() as usize];
        let same = lanes(left).filter(|&lane| objects[lane] == object).fold(0u32, |mask, lane| mask | 1 << lane);
        left &= !same;
        warp.copies.track(object, same);
    }
}

/// Calls `f` with the copies of every warp of the block.
fn each_warp(warp: &mut Warp, mut f: impl FnMut(&mut Copies)) {
    f(&mut warp.copies);
    for at in 0..warp.block().warps.len() {
        let other = warp.block().warps[at];
        if at != warp.index as usize {
            // SAFETY: the block owns its warps, one of which runs at a time: the one that is not reached this way.
            f(unsafe { &mut (*other).copies });
        }
    }
}

/// A phase of an mbarrier is over.
pub(super) fn end_phase(warp: &mut Warp, object: u64) {
    each_warp(warp, |copies| copies.end_phase(object));
}

/// The active lanes have seen that phases of mbarriers are over: what those tracked is there now.
pub(super) fn observe(warp: &mut Warp, objects: &[u64; 32], mask: u32) {
    let mut seen = None;
    for lane in lanes(mask) {
        if seen.replace(objects[lane]) != Some(objects[lane]) {
            // SAFETY: as in `wait`.
            each_warp(warp, |copies| unsafe { copies.observe(objects[lane]) });
        }
    }
}

/// `cp.async`, except `cp.async.mbarrier`.
pub(crate) fn decode(i: &Instruction, b: &mut Builder<'_>) -> Result<(), CompileError> {
    let mut m = Modifiers::of(i);
    if i.opcode != "cp" || !m.take("async") || i.has("bulk") {
        return Err(b.error(i, "bulk and tensor copies are not modelled"));
    }
    if m.take("mbarrier") {
        return crate::ops::mbarrier::decode_copy_arrive(i, b, m);
    }
    if m.take("commit_group") {
        m.finish(b)?;
        b.operands::<0>(i)?;
        b.emit(Op::new(commit()));
        return Ok(());
    }
    if m.take("wait_all") {
        m.finish(b)?;
        b.operands::<0>(i)?;
        let mut op = Op::new(wait());
        op.y = 1;
        b.emit(op);
        return Ok(());
    }
    if m.take("wait_group") {
        m.finish(b)?;
        let [Operand::Integer { value, .. }] = b.operands::<1>(i)? else {
            return Err(b.error(i, "the number of groups must be a constant"));
        };
        let mut op = Op::new(wait());
        op.x = u32::try_from(*value).map_err(|_| b.error(i, "the number of groups is out of range"))?;
        b.emit(op);
        return Ok(());
    }
    decode_issue(i, b, m)
}

fn decode_issue(i: &Instruction, b: &mut Builder<'_>, mut m: Modifiers<'_>) -> Result<(), CompileError> {
    let level = m.take_any(&["ca", "cg"]).ok_or_else(|| b.unknown(i))?;
    let hint = take_hints(&mut m);
    let (target, source) = (take_space(&mut m), take_space(&mut m));
    m.finish(b)?;
    if (target, source) != (Some(Space::Shared), Some(Space::Global)) {
        return Err(b.error(i, "copies go from .global to .shared"));
    }
    let mut operands = i.operands.as_slice();
    if hint {
        let (policy, others) = operands.split_last().ok_or_else(|| b.unknown(i))?;
        cache_policy(i, b, policy)?;
        operands = others;
    }
    let (to, from, size, rest) = match operands {
        [to, from, size] => (to, from, size, None),
        [to, from, size, rest] => (to, from, size, Some(rest)),
        other => return Err(b.error(i, format!("found {} operands, expected 3 or 4", other.len()))),
    };
    let bytes = match size {
        Operand::Integer { value: 4 | 8, .. } if level == "cg" => {
            return Err(b.error(i, "`.cg` copies 16 bytes at a time"));
        }
        Operand::Integer { value: value @ (4 | 8 | 16), .. } => *value as u32,
        _ => return Err(b.error(i, "the size must be 4, 8 or 16")),
    };
    let mut op = Op::new(commit());
    let mut high = op;
    let narrow = register_address(i, b, to, target, &mut op)?;
    let from_narrow = register_address(i, b, from, source, &mut high)?;
    if from_narrow {
        return Err(b.error(i, "the source has an address of 32 bits, expected 64"));
    }
    let offset = |value: u64| i32::try_from(value as i64);
    let (Ok(low), Ok(high_offset)) = (offset(op.imm), offset(high.imm)) else {
        return Err(b.error(i, "an offset does not fit in 32 bits"));
    };
    op.imm = (i64::from(high_offset) << 32) as u64 | u64::from(low as u32);
    op.b = high.a;
    op.exec = if narrow { exec::<Issue<Shared32>>().run() } else { exec::<Issue<Shared64>>().run() };
    let how = match rest {
        None => 0,
        Some(operand) => {
            let predicate = matches!(operand, Operand::Not(_)) || b.register_type(operand) == Some(Type::Pred);
            if predicate {
                let (slot, negated) = b.read_predicate(i, operand)?;
                op.c = slot;
                if negated { 3 } else { 2 }
            } else {
                op.c = b.read(i, operand, Type::U32)?;
                1
            }
        }
    };
    op.x = bytes;
    op.y = how;
    b.emit(op);
    Ok(())
}
