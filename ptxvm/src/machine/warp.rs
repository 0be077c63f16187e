//! A warp: 32 lanes, the parts it has fallen into where lanes took different ways, and the call frames they run in.

use super::{
    block::Block,
    fault::Fault,
    lanes::{Lane, Stored},
    launch::Running,
    op::{Flow, Op, Slot},
};
use crate::{memory::AllocationCache, monitor::Monitor, program::FunctionCode};
use std::ptr::NonNull;

/// No join record, no frame.
pub(crate) const NONE: u32 = u32::MAX;

/// Operations that a warp runs before another has its turn.
pub(crate) const SLICE: u32 = 1 << 14;

/// Lanes of a warp that stand at the same place and go on together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) frame: u32,
    pub(crate) join: u32,
    pub(crate) state: SplitState,
    /// What the operation at `pc` is told when it runs again after waiting.
    pub(crate) resume: Option<u32>,
}

/// Whether a split can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SplitState {
    Runnable,
    /// In a named barrier of the block.
    Barrier(u32),
    /// At a warp-wide instruction, until the lanes of this mask are at it too.
    Converge(u32),
}

/// A place where the lanes of `expected` meet again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    /// Where: an operation of the frame's function, or [`RETURN`].
    pub(crate) pc: u32,
    pub(crate) frame: u32,
    pub(crate) expected: u32,
    pub(crate) arrived: u32,
    pub(crate) parent: u32,
    pub(crate) used: bool,
}

/// `Join::pc` of a function's return.
pub(crate) const RETURN: u32 = u32::MAX;

/// An activation of a function: its registers and where its local memory starts.
pub(crate) struct Frame {
    pub(crate) registers: Vec<RegisterLine>,
    pub(crate) function: u32,
    pub(crate) local_base: u32,
    /// Where each lane's memory ends, once it has taken more with `alloca`.
    pub(crate) tops: Option<Box<[u32; 32]>>,
    /// Frame and operation of the call.
    pub(crate) caller: u32,
    pub(crate) call_pc: u32,
    pub(crate) used: bool,
}

/// Registers are aligned for vectors.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct RegisterLine(pub(crate) [u8; 64]);

/// What a warp says when it stops running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All lanes have exited.
    Finished,
    /// No split can go on before something happens elsewhere.
    Blocked,
    /// Its slice is used up, or it gives way because it spins.
    Yield,
    /// See [`Warp::fault`].
    Fault,
}

/// A warp of a block. The run loop and every operation work on this.
pub struct Warp {
    /// The lanes that the current operation acts on.
    pub mask: u32,
    /// Index of the current operation in the current function.
    pub pc: u32,
    pub(crate) registers: *mut u8,
    pub(crate) ops: *const Op,
    pub(crate) wide: *const Slot,
    pub(crate) frame: u32,
    pub(crate) join: u32,
    /// What the run loop goes back to after a guarded operation.
    pub(crate) unguarded: u32,
    /// What the current operation is told when it runs again after waiting.
    pub(crate) resume: Option<u32>,
    /// Signs that the warp waits for others by asking again and again (atomics, volatile loads, `nanosleep`).
    pub(crate) spinning: u32,
    /// Slices in a row that were spent waiting.
    pub(crate) spun_slices: u32,
    /// The lanes that ran when those slices ended, and the lanes they have met since.
    pub(crate) spun_lanes: u32,
    /// Lanes that have not exited.
    pub(crate) live: u32,
    /// Lanes that exist: not all in the last warp of a block whose size is no multiple of 32.
    pub(crate) lanes: u32,
    /// Number of the warp in its block.
    pub(crate) index: u32,
    /// Operations run so far (over all splits), also the value of `%clock`.
    pub(crate) clock: u64,
    pub(crate) local_base: u32,
    pub(crate) block: *mut Block,
    pub(crate) running: *const Running<'static>,
    pub(crate) monitor: Option<NonNull<dyn Monitor>>,
    pub(crate) cache: AllocationCache,
    /// What went wrong, after [`Flow::Fault`].
    pub(crate) fault: Option<Box<Fault>>,
    pub(crate) others: Vec<Split>,
    pub(crate) joins: Vec<Join>,
    pub(crate) frames: Vec<Frame>,
    /// `%tid` of each lane.
    pub(crate) tid: [[u32; 32]; 3],
    /// Local memory, lane after lane, `local_bytes` each.
    pub(crate) local: Vec<u8>,
    pub(crate) local_bytes: u32,
    /// Asynchronous copies under way.
    pub(crate) copies: crate::ops::async_copy::Copies,
    /// The state a split was left in by the operation that suspended it.
    pub(crate) suspended: Option<SplitState>,
}

impl Warp {
    /// The lanes of a register.
    ///
    /// # Safety
    /// `slot` must be a slot of the current frame made for values stored as `T::Stored`. The reference must not outlive
    /// the next write to a register.
    #[inline(always)]
    pub unsafe fn lanes<T: Lane>(&self, slot: Slot) -> &'static [T::Stored; 32] {
        // SAFETY: the caller's contract; registers are aligned to 64 bytes and slots to the size of a lane.
        unsafe { &*self.registers.add(slot as usize).cast() }
    }

    /// The lanes of a register, to be written whatever the mask says (only for fragments of full warps and results that
    /// every lane computes for itself).
    ///
    /// # Safety
    /// As [`Self::lanes`].
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "registers are memory of the frame, reached through a raw pointer")]
    pub unsafe fn lanes_mut<T: Lane>(&mut self, slot: Slot) -> &'static mut [T::Stored; 32] {
        // SAFETY: the caller's contract.
        unsafe { &mut *self.registers.add(slot as usize).cast() }
    }

    /// Writes the lanes of the mask.
    ///
    /// # Safety
    /// As [`Self::lanes`].
    #[inline(always)]
    pub unsafe fn write<T: Lane>(&mut self, slot: Slot, values: &[T::Stored; 32]) {
        let mask = self.mask;
        // SAFETY: the caller's contract.
        let target = unsafe { self.lanes_mut::<T>(slot) };
        if mask == u32::MAX {
            *target = *values;
        } else {
            T::Stored::blend(target, values, mask);
        }
    }

    /// The bits of a predicate.
    ///
    /// # Safety
    /// `slot` must be a predicate slot of the current frame.
    #[inline(always)]
    pub unsafe fn predicate(&self, slot: Slot) -> u32 {
        // SAFETY: the caller's contract; predicates are aligned to 4 bytes.
        unsafe { *self.registers.add(slot as usize).cast::<u32>() }
    }

    /// Writes the bits of a predicate for the lanes of the mask.
    ///
    /// # Safety
    /// As [`Self::predicate`].
    #[inline(always)]
    pub unsafe fn write_predicate(&mut self, slot: Slot, bits: u32) {
        // SAFETY: the caller's contract.
        unsafe {
            let target = self.registers.add(slot as usize).cast::<u32>();
            *target = bits & self.mask | *target & !self.mask;
        }
    }

    /// Further slots of an operation.
    ///
    /// # Safety
    /// `op` must be an operation of the current function.
    #[inline(always)]
    pub unsafe fn wide(&self, op: &Op) -> &'static [Slot] {
        // SAFETY: wide and count were set together when the function was compiled.
        unsafe { std::slice::from_raw_parts(self.wide.add(op.wide as usize), op.count as usize) }
    }

    /// The block this warp belongs to.
    #[inline(always)]
    pub(crate) fn block(&mut self) -> &mut Block {
        // SAFETY: a block owns its warps, stays in place while they run, and runs one warp at a time; operations do not
        // keep the reference beyond themselves.
        unsafe { &mut *self.block }
    }

    /// The launch this warp belongs to.
    #[inline(always)]
    pub(crate) fn running(&self) -> &'static Running<'static> {
        // SAFETY: the launch outlives its blocks.
        unsafe { &*self.running }
    }

    /// Whoever watches, in the checked and profile modes.
    #[inline(always)]
    pub(crate) fn monitor(&mut self) -> Option<&'static mut dyn Monitor> {
        // SAFETY: the monitor belongs to the block, which outlives its warps; one operation runs at a time.
        self.monitor.map(|mut monitor| unsafe { monitor.as_mut() })
    }

    /// The function that runs.
    pub(crate) fn function(&self) -> &'static FunctionCode {
        &self.running().program().functions[self.frames[self.frame as usize].function as usize]
    }

    /// Sets the fault and returns [`Flow::Fault`].
    #[cold]
    pub(crate) fn raise(&mut self, fault: Fault) -> Flow {
        self.fault = Some(Box::new(fault));
        Flow::Fault
    }

    /// The lowest lane that is active.
    #[inline(always)]
    pub(crate) fn leader(&self) -> usize {
        (self.mask.trailing_zeros() & 31) as usize
    }

    /// Waits until all live lanes of `members` stand at this operation. `Some(flow)`: return that from the operation.
    /// `None`: they are here, and the mask holds all that are.
    #[inline(always)]
    pub(crate) fn converge(&mut self, members: u32) -> Option<Flow> {
        if members & self.live & !self.mask == 0 {
            return None;
        }
        self.suspended = Some(SplitState::Converge(members));
        Some(Flow::Suspend)
    }
}
