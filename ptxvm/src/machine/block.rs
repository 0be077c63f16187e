//! A block: its warps, its shared memory and its barriers.

use super::{
    fault::{Fault, FaultKind, Place},
    launch::Running,
    start::first_frame,
    warp::{Split, SplitState, Stop, Warp},
};
use crate::monitor::Monitor;

/// A named barrier.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Barrier {
    /// Threads that have arrived, and how many it takes (0: all that live).
    arrived: u32,
    expected: u32,
    /// Of `barrier.red`: threads with a true and with a false predicate.
    holding: u32,
    failing: u32,
}

/// A block under way.
pub(crate) struct Block {
    pub(crate) index: [u32; 3],
    /// Number of the block in the grid.
    pub(crate) number: u64,
    shared: Vec<SharedLine>,
    shared_bytes: usize,
    pub(crate) barriers: [Barrier; 16],
    pub(crate) warps: Vec<*mut Warp>,
    running: *const Running<'static>,
    monitor: Option<Box<dyn Monitor>>,
    order: Vec<usize>,
    /// Operations that a warp runs before another has its turn.
    pub(crate) slice: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(1024))]
struct SharedLine([u8; 1024]);

// SAFETY: a block owns what its pointers point to and is worked on by one thread at a time.
unsafe impl Send for Block {}

/// What a block says after a round over its warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Finished,
    /// Some warp did something.
    Busy,
    /// All that ran gave way at once: they wait for something outside the block.
    Spinning,
    Fault,
}

/// The memory of a block that has ended.
#[derive(Default)]
pub(crate) struct Spare {
    shared: Vec<SharedLine>,
    warps: Vec<*mut Warp>,
}

// SAFETY: a spare owns what its pointers point to, and nobody works on it.
unsafe impl Send for Spare {}

impl Drop for Spare {
    fn drop(&mut self) {
        for warp in self.warps.drain(..) {
            // SAFETY: made by `Box::into_raw` in `Block::new`, dropped once.
            drop(unsafe { Box::from_raw(warp) });
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let spare = Spare { shared: std::mem::take(&mut self.shared), warps: std::mem::take(&mut self.warps) };
        // SAFETY: the launch outlives its blocks.
        unsafe { &*self.running }.keep_spare(spare);
    }
}

impl Block {
    /// A block ready to run. The box must not be moved out of: warps point to it.
    pub(crate) fn new(running: &Running<'_>, number: u64) -> Box<Self> {
        let launch = running.launch;
        let [gx, gy, _] = launch.grid.map(u64::from);
        let index = [(number % gx) as u32, (number / gx % gy) as u32, (number / gx / gy) as u32];
        let shared_bytes = running.shared_bytes() as usize;
        let threads = launch.threads();
        let mut spare = running.take_spare().unwrap_or_default();
        let mut shared = std::mem::take(&mut spare.shared);
        shared.clear();
        shared.resize(shared_bytes.div_ceil(1024), SharedLine([0; 1024]));
        let mut block = Box::new(Self {
            index,
            number,
            shared,
            shared_bytes,
            barriers: Default::default(),
            warps: std::mem::take(&mut spare.warps),
            running: std::ptr::from_ref(running).cast(),
            monitor: running.watch_block(number),
            order: running.warp_order(number, threads.div_ceil(32) as usize),
            slice: super::warp::SLICE,
        });
        let pointer: *mut Self = &mut *block;
        let monitor = block.monitor.as_deref_mut().map(std::ptr::NonNull::from);
        for number in 0..threads.div_ceil(32) {
            match block.warps.get(number as usize) {
                Some(&warp) => {
                    // SAFETY: the block owns its warps, and none runs.
                    let warp = unsafe { &mut *warp };
                    *warp = first_frame(running, pointer, monitor, number, Some(warp));
                    warp.use_frame();
                }
                None => {
                    let mut warp = Box::new(first_frame(running, pointer, monitor, number, None));
                    warp.use_frame();
                    block.warps.push(Box::into_raw(warp));
                }
            }
        }
        block
    }

    /// Whether memory or barriers have changed since it was last asked; `None`: nobody has watched.
    pub(crate) fn took_effect(&mut self) -> Option<bool> {
        self.monitor.as_mut().and_then(|monitor| monitor.took_effect())
    }

    /// The block's shared memory.
    #[inline(always)]
    pub(crate) fn shared(&mut self) -> &mut [u8] {
        // SAFETY: SharedLine is bytes without padding, and there are enough lines for `shared_bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.shared.as_mut_ptr().cast(), self.shared_bytes) }
    }

    /// Lets every warp that can run have a slice.
    ///
    /// # Safety
    /// `block` must point to a live block that no other thread works on.
    pub(crate) unsafe fn round(block: *mut Self) -> Round {
        // References to the block end before a warp runs: operations reach the block through the warp's pointer.
        // SAFETY: the caller's contract.
        let count = unsafe { (*block).order.len() };
        let (mut finished, mut busy, mut spinning) = (0, false, false);
        for turn in 0..count {
            // SAFETY: the caller's contract; warps are owned by the block.
            let warp = unsafe { (&(*block).warps)[(&(*block).order)[turn]] };
            // SAFETY: as above; this is the only reference to the warp.
            let stop = unsafe { (*warp).run() };
            match stop {
                Stop::Finished => {
                    finished += 1;
                    // SAFETY: as above.
                    unsafe { (*block).settle_barriers() };
                }
                Stop::Blocked => {}
                // SAFETY: as above.
                Stop::Yield => match unsafe { (*warp).spun_slices } {
                    0 => busy = true,
                    _ => spinning = true,
                },
                Stop::Fault => return Round::Fault,
            }
        }
        if finished == count {
            // SAFETY: as above.
            if let Some(monitor) = unsafe { (*block).monitor.as_deref_mut() } {
                monitor.block_end();
            }
            return Round::Finished;
        }
        // SAFETY: as above.
        let any_runnable = unsafe { (*block).any_runnable() };
        match (busy || any_runnable && !spinning, spinning) {
            (true, _) => Round::Busy,
            (false, true) => Round::Spinning,
            (false, false) => {
                // SAFETY: as above.
                unsafe { (*block).deadlock() };
                Round::Fault
            }
        }
    }

    fn any_runnable(&self) -> bool {
        self.warps.iter().any(|&warp| {
            // SAFETY: owned by the block; no operation is under way.
            let warp = unsafe { &*warp };
            warp.mask != 0 || warp.others.iter().any(|split| split.state == SplitState::Runnable)
        })
    }

    /// Nothing in the block can go on: says who waits where.
    fn deadlock(&mut self) {
        let mut message = String::from("nothing in the block can go on:");
        for (number, &warp) in self.warps.iter().enumerate() {
            // SAFETY: as in `any_runnable`.
            let warp = unsafe { &*warp };
            for split in &warp.others {
                let function = &warp.running().program().functions[warp.frames[split.frame as usize].function as usize];
                let info = &function.instructions[function.ops[split.pc as usize].instruction as usize];
                let why = match split.state {
                    SplitState::Runnable => continue,
                    SplitState::Barrier(id) => {
                        let barrier = &self.barriers[id as usize];
                        format!("in barrier {id} ({} threads have arrived)", barrier.arrived)
                    }
                    SplitState::Converge(members) => format!("for lanes {members:#010x}"),
                };
                message += &format!(
                    "\n  warp {number} lanes {:#010x} wait {why} at `{}`, PTX line {}",
                    split.mask, info.opcode, info.line
                );
            }
        }
        // SAFETY: as in `any_runnable`, for both.
        let alive = |warp: &&*mut Warp| unsafe { (***warp).live != 0 };
        let waits = |warp: &&*mut Warp| {
            // SAFETY: as above.
            let others = unsafe { &(***warp).others };
            others.iter().any(|split| matches!(split.state, SplitState::Converge(_)))
        };
        let Some(&first) = self.warps.iter().find(waits).or(self.warps.iter().find(alive)) else { return };
        // SAFETY: as in `any_runnable`.
        let warp = unsafe { &mut *first };
        let waiting = |split: &&Split| matches!(split.state, SplitState::Converge(_));
        if let Some(split) = warp.others.iter().find(waiting).or(warp.others.first()).copied() {
            (warp.pc, warp.mask, warp.frame) = (split.pc, split.mask, split.frame);
        }
        // Lanes that wait for others of their warp have named ones that do not come.
        let waits_for_lanes = |split: &Split| matches!(split.state, SplitState::Converge(_));
        let finding = if warp.others.iter().any(waits_for_lanes) { "warp-mask" } else { "deadlock" };
        warp.fault = Some(Box::new(Fault::new(FaultKind::Deadlock, finding, message)));
    }

    /// The fault of whichever warp has one, with its place.
    pub(crate) fn take_fault(&mut self) -> Option<Fault> {
        self.warps.iter().find_map(|&warp| {
            // SAFETY: as in `any_runnable`.
            let warp = unsafe { &mut *warp };
            let mut fault = *warp.fault.take()?;
            fault.place.get_or_insert_with(|| Box::new(warp.place(fault.lane)));
            Some(fault)
        })
    }

    /// Where some warp of the block stands.
    pub(crate) fn some_place(&mut self) -> Place {
        let alive = self.warps.iter().copied().find(|&warp| {
            // SAFETY: as in `any_runnable`.
            unsafe { (*warp).live != 0 }
        });
        // SAFETY: as in `any_runnable`.
        alive.map(|warp| unsafe { (*warp).place(None) }).unwrap_or_default()
    }

    /// Lanes of `warp` arrive at a barrier. True: it is complete, and everybody who waited has been told so.
    pub(crate) fn arrive(&mut self, warp: &mut Warp, id: u32, expected: u32, holds: Option<u32>) -> bool {
        let barrier = &mut self.barriers[id as usize];
        barrier.expected = expected;
        // A warp counts whole, also where it has fewer threads.
        barrier.arrived += if expected != 0 && warp.mask == warp.live { 32 } else { warp.mask.count_ones() };
        if let Some(holds) = holds {
            barrier.holding += (holds & warp.mask).count_ones();
            barrier.failing += (!holds & warp.mask).count_ones();
        }
        self.complete(Some(warp), id)
    }

    /// Threads have exited: barriers that waited for them may be complete.
    fn settle_barriers(&mut self) {
        for id in 0..16 {
            if self.barriers[id as usize].arrived != 0 && self.barriers[id as usize].expected == 0 {
                self.complete(None, id);
            }
        }
    }

    fn complete(&mut self, mut current: Option<&mut Warp>, id: u32) -> bool {
        let barrier = self.barriers[id as usize];
        let own = current.as_deref_mut().map(|warp| (warp.index as usize, warp.live));
        let live = |number: usize, warp: *mut Warp| match own {
            Some((index, live)) if index == number => live,
            // SAFETY: as in `any_runnable`; the running warp is not reached this way.
            _ => unsafe { (*warp).live },
        };
        let wanted = match barrier.expected {
            0 => self.warps.iter().enumerate().map(|(number, &warp)| live(number, warp).count_ones()).sum(),
            count => count,
        };
        if barrier.arrived < wanted || barrier.arrived == 0 {
            return false;
        }
        if let Some(monitor) = &mut self.monitor {
            monitor.release(id);
        }
        self.barriers[id as usize] = Barrier::default();
        let result = barrier.holding | u32::from(barrier.failing != 0) << 31;
        for (number, &warp) in self.warps.iter().enumerate() {
            let others = match (&mut current, own) {
                (Some(warp), Some((index, _))) if index == number => &mut warp.others,
                // SAFETY: as above.
                _ => unsafe { &mut (*warp).others },
            };
            for split in others.iter_mut().filter(|split| split.state == SplitState::Barrier(id)) {
                split.state = SplitState::Runnable;
                split.resume = Some(result);
            }
        }
        if let Some(warp) = current {
            warp.resume = Some(result);
        }
        true
    }
}

impl Warp {
    /// Where the current operation is, for lane `lane` (or the first active one).
    pub(crate) fn place(&self, lane: Option<u32>) -> Place {
        let running = self.running();
        let function = self.function();
        // SAFETY: the block outlives its warps.
        let block = unsafe { (*self.block).index };
        let lane = lane.unwrap_or(self.leader() as u32) as usize & 31;
        let op = &function.ops[(self.pc as usize).min(function.ops.len() - 1)];
        let info = &function.instructions[op.instruction as usize];
        Place {
            kernel: running.kernel_name().to_owned(),
            function: function.name.clone(),
            opcode: info.opcode.clone(),
            text: info.text,
            line: info.line,
            source: info
                .source
                .map(|source| (running.program().files.get(&source.file).cloned().unwrap_or_default(), source.line)),
            block,
            thread: [self.tid[0][lane], self.tid[1][lane], self.tid[2][lane]],
        }
    }
}
