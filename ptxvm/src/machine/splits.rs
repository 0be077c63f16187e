//! Lanes that part and meet again.
//!
//! A divergent branch notes a [`Join`] where its ways meet (the immediate post-dominator), and the lanes that go the
//! other way become a [`Split`] of their own. At the join lanes wait for the others. A split that runs long gives way to
//! the others of its warp, so lanes that wait for one another make progress, as on Volta and later.

use super::{
    op::Flow,
    warp::{Frame, Join, NONE, RETURN, Split, SplitState, Stop, Warp},
};

impl Warp {
    fn new_join(&mut self, join: Join) -> u32 {
        match self.joins.iter().position(|join| !join.used) {
            Some(at) => {
                self.joins[at] = join;
                at as u32
            }
            None => {
                self.joins.push(join);
                (self.joins.len() - 1) as u32
            }
        }
    }

    /// The lanes of the mask go two ways: `taken` to `target`, the rest to `fallthrough`; they meet at `meet`
    /// (an operation of this function, or [`NONE`] if only the end of the function is common).
    pub(crate) fn part(&mut self, taken: u32, target: u32, fallthrough: u32, meet: u32) -> Flow {
        let rest = self.mask & !taken;
        if let Some(monitor) = self.monitor() {
            monitor.diverged(self, taken, rest);
        }
        if meet != NONE {
            let here = self.join != NONE && {
                let join = &self.joins[self.join as usize];
                join.pc == meet && join.frame == self.frame
            };
            if !here {
                self.join = self.new_join(Join {
                    pc: meet,
                    frame: self.frame,
                    expected: self.mask,
                    arrived: 0,
                    parent: self.join,
                    used: true,
                });
            }
            // Lanes that go straight to the join have arrived.
            for (lanes, way, others, other_way) in
                [(taken, target, rest, fallthrough), (rest, fallthrough, taken, target)]
            {
                if way == meet {
                    self.joins[self.join as usize].arrived |= lanes;
                    self.mask = others;
                    self.pc = other_way;
                    return Flow::Jump;
                }
            }
        }
        let (frame, join) = (self.frame, self.join);
        self.others.push(Split { pc: target, mask: taken, frame, join, state: SplitState::Runnable, resume: None });
        self.mask = rest;
        self.pc = fallthrough;
        Flow::Jump
    }

    /// The running split is at a place where lanes meet.
    #[inline(always)]
    pub(crate) fn meet(&mut self) -> Flow {
        if self.join == NONE {
            return Flow::Next;
        }
        self.meet_at(self.pc)
    }

    fn meet_at(&mut self, pc: u32) -> Flow {
        while self.join != NONE {
            let join = &mut self.joins[self.join as usize];
            if join.pc != pc || join.frame != self.frame {
                return Flow::Next;
            }
            join.arrived |= self.mask;
            if join.arrived != join.expected {
                self.mask = 0;
                return Flow::Suspend;
            }
            self.mask = join.arrived;
            join.used = false;
            self.join = join.parent;
            if self.spun_slices != 0 {
                self.stop_waiting_for_spinners();
            }
        }
        Flow::Next
    }

    /// Lanes that spun have come to lanes that waited for them: their wait is over. Lanes that part and meet within the loop
    /// that spins are no sign of that.
    #[cold]
    fn stop_waiting_for_spinners(&mut self) {
        if self.mask & !self.spun_lanes != 0 {
            self.spun_slices = 0;
            self.spun_lanes |= self.mask;
        }
    }

    /// The lanes of the mask exit.
    pub(crate) fn exit(&mut self) -> Flow {
        let gone = self.mask;
        self.live &= !gone;
        self.forget(gone, NONE);
        self.mask = 0;
        Flow::Suspend
    }

    /// `gone` lanes will not come to any join below `until` (the record of a call) any more.
    fn forget(&mut self, gone: u32, until: u32) {
        for at in 0..self.joins.len() {
            if !self.joins[at].used || self.joins[at].expected & gone == 0 {
                continue;
            }
            if until != NONE && (at as u32 == until || !self.is_within(at as u32, until)) {
                continue;
            }
            self.joins[at].expected &= !gone;
            self.joins[at].arrived &= !gone;
            self.settle(at);
        }
    }

    fn is_within(&self, mut join: u32, outer: u32) -> bool {
        while join != NONE {
            if join == outer {
                return true;
            }
            join = self.joins[join as usize].parent;
        }
        false
    }

    /// If everybody who is still expected has arrived, they go on.
    fn settle(&mut self, at: usize) {
        let join = self.joins[at];
        if join.arrived != join.expected {
            return;
        }
        if join.expected == 0 {
            self.joins[at].used = false;
            if join.pc == RETURN {
                self.free_frame(join.frame);
            }
            return;
        }
        if join.pc == RETURN {
            self.joins[at].used = false;
            self.resume_caller(join);
            return;
        }
        self.joins[at].used = false;
        self.others.push(Split {
            pc: join.pc,
            mask: join.arrived,
            frame: join.frame,
            join: join.parent,
            state: SplitState::Runnable,
            resume: None,
        });
    }

    /// Lanes that wait at a join while the others spin go on alone: they may hold what the others wait for.
    pub(crate) fn release_waiting(&mut self) -> bool {
        let Some(at) = (0..self.joins.len()).find(|&at| {
            let join = &self.joins[at];
            join.used && join.arrived != 0 && join.pc != RETURN && !self.is_before_barrier(join)
        }) else {
            return false;
        };
        let lanes = self.joins[at].arrived;
        let join = self.joins[at];
        self.joins[at].expected &= !lanes;
        self.joins[at].arrived = 0;
        self.others.push(Split {
            pc: join.pc,
            mask: lanes,
            frame: join.frame,
            join: join.parent,
            state: SplitState::Runnable,
            resume: None,
        });
        true
    }

    /// Whether lanes at the join are about to reach a barrier that takes the whole warp, before they could change anything that
    /// the others wait for: going on alone would help nobody.
    fn is_before_barrier(&self, join: &Join) -> bool {
        let function = self.frames[join.frame as usize].function as usize;
        let function = &self.running().program().functions[function];
        // The mark of the join stands for no instruction, though it names the one before it.
        let opcodes = function.ops[join.pc as usize + 1..]
            .iter()
            .filter_map(|op| Some(function.instructions.get(op.instruction as usize)?.opcode.as_str()));
        let decides = |opcode: &&str| {
            ["bar", "bra", "brx", "call", "ret", "exit", "st", "atom", "red", "nanosleep", "mbarrier"]
                .iter()
                .any(|begin| opcode.starts_with(begin))
        };
        // `bar.sync` is aligned; `barrier.sync` only where it says so.
        opcodes.take(64).find(decides).is_some_and(|opcode| {
            opcode.starts_with("bar.") || opcode.starts_with("barrier.") && opcode.ends_with(".aligned")
        })
    }

    /// Enters a function: a new frame, and a record of where its lanes return together.
    pub(crate) fn enter(&mut self, function: u32, frame: Frame, return_pc: u32) {
        let frame = Frame { caller: self.frame, call_pc: return_pc, function, ..frame };
        let number = match self.frames.iter().position(|frame| !frame.used) {
            Some(at) => {
                self.frames[at] = frame;
                at as u32
            }
            None => {
                self.frames.push(frame);
                (self.frames.len() - 1) as u32
            }
        };
        self.join = self.new_join(Join {
            pc: RETURN,
            frame: number,
            expected: self.mask,
            arrived: 0,
            parent: self.join,
            used: true,
        });
        self.frame = number;
        self.pc = 0;
        self.use_frame();
    }

    /// The lanes of the mask return from the function.
    pub(crate) fn leave(&mut self) -> Flow {
        // The record of the call: the innermost one that is a return.
        let mut record = self.join;
        while record != NONE && self.joins[record as usize].pc != RETURN {
            record = self.joins[record as usize].parent;
        }
        if record == NONE {
            return self.exit();
        }
        let lanes = self.mask;
        self.mask = 0;
        self.forget(lanes, record);
        self.joins[record as usize].arrived |= lanes;
        self.settle(record as usize);
        Flow::Suspend
    }

    /// All lanes of a call have returned.
    fn resume_caller(&mut self, join: Join) {
        let (caller, pc) = {
            let frame = &self.frames[join.frame as usize];
            (frame.caller, frame.call_pc)
        };
        self.copy_returns(join.frame, join.arrived);
        self.free_frame(join.frame);
        self.others.push(Split {
            pc,
            mask: join.arrived,
            frame: caller,
            join: join.parent,
            state: SplitState::Runnable,
            resume: None,
        });
    }

    fn free_frame(&mut self, frame: u32) {
        let frame = &mut self.frames[frame as usize];
        frame.used = false;
        frame.registers = Vec::new();
    }

    /// Points at the current frame's registers and code.
    pub(crate) fn use_frame(&mut self) {
        let frame = &mut self.frames[self.frame as usize];
        self.registers = frame.registers.as_mut_ptr().cast();
        self.local_base = frame.local_base;
        let function = frame.function as usize;
        let function = &self.running().program().functions[function];
        self.ops = function.ops.as_ptr();
        self.wide = function.wide.as_ptr();
    }

    /// Puts the running split away.
    fn put_away(&mut self, state: SplitState) {
        if self.mask != 0 {
            let (pc, mask, frame, join, resume) = (self.pc, self.mask, self.frame, self.join, self.resume.take());
            self.others.push(Split { pc, mask, frame, join, state, resume });
            self.mask = 0;
        }
    }

    /// Makes the most recent runnable split the running one.
    fn pick(&mut self) -> bool {
        let Some(at) = self.others.iter().rposition(|split| split.state == SplitState::Runnable) else {
            return false;
        };
        let split = self.others.remove(at);
        self.pc = split.pc;
        self.mask = split.mask;
        self.join = split.join;
        self.resume = split.resume;
        if self.frame != split.frame {
            self.frame = split.frame;
            self.use_frame();
        }
        true
    }

    /// Runs until the warp is done, waits, or its slice is over.
    pub(crate) fn run(&mut self) -> Stop {
        let watched = self.monitor().is_some_and(|monitor| monitor.wants_operations());
        let mut budget = self.block().slice;
        self.spinning = 0;
        loop {
            if budget == 0 {
                return Stop::Yield;
            }
            if self.mask == 0 && !self.pick() {
                if self.live == 0 {
                    return Stop::Finished;
                }
                if self.converge_waiting() {
                    if self.fault.is_some() {
                        return Stop::Fault;
                    }
                    continue;
                }
                // It waits without spinning: what it does afterwards is another matter.
                (self.spun_slices, self.spun_lanes) = (0, 0);
                return Stop::Blocked;
            }
            let before = budget;
            let flow = if watched { self.run_split::<true>(&mut budget) } else { self.run_split::<false>(&mut budget) };
            self.clock += u64::from(before - budget);
            match flow {
                Flow::Suspend => {
                    if let Some(state) = self.suspended.take() {
                        self.put_away(state);
                        if let SplitState::Converge(_) = state {
                            self.converge_waiting();
                        }
                    }
                }
                Flow::Fault => return Stop::Fault,
                // The slice is over: the other splits of this warp come first next time.
                Flow::Next | Flow::Jump => {
                    let spun = self.spinning >= SPINS_IN_SLICE;
                    (self.spun_slices, self.spun_lanes) =
                        if spun { (self.spun_slices + 1, self.spun_lanes | self.mask) } else { (0, 0) };
                    if !self.others.is_empty() || self.spun_slices >= SPUN_BEFORE_RELEASE {
                        self.put_away(SplitState::Runnable);
                        if let Some(split) = self.others.pop() {
                            self.others.insert(0, split);
                        }
                        if self.spun_slices >= SPUN_BEFORE_RELEASE {
                            self.release_waiting();
                        }
                    }
                    return Stop::Yield;
                }
            }
        }
    }

    /// Runs the current split until it stops or the budget is used up.
    #[inline(always)]
    fn run_split<const WATCHED: bool>(&mut self, budget: &mut u32) -> Flow {
        let mut left = *budget;
        let result = loop {
            // Straight on until an operation says otherwise. Everything the loop needs is in registers: the counter in the
            // warp is written, not read.
            let mut pc = self.pc;
            let end = pc.wrapping_add(left);
            // SAFETY: `pc` is a position of the current function: positions come from its own layout, and its last operation
            // never goes on. The operations belong to the current frame.
            let flow = unsafe {
                let mut op = self.ops.add(pc as usize);
                loop {
                    if WATCHED && let Some(monitor) = self.monitor() {
                        monitor.operation(self);
                    }
                    let flow = ((*op).exec)(self, &*op);
                    pc = pc.wrapping_add(1);
                    if flow != Flow::Next {
                        break flow;
                    }
                    self.pc = pc;
                    if pc == end {
                        break flow;
                    }
                    op = op.add(1);
                }
            };
            left = end.wrapping_sub(pc);
            match flow {
                Flow::Jump if left < 64 || self.spinning & SPIN_CHECK != 0 && self.gives_way() => break flow,
                Flow::Jump => {}
                _ => break flow,
            }
        };
        *budget = left;
        result
    }

    fn gives_way(&mut self) -> bool {
        self.spinning >= SPINS_IN_SLICE
    }

    /// Splits that stand at the same warp-wide instruction and together are all that it waits for run it as one.
    fn converge_waiting(&mut self) -> bool {
        for at in 0..self.others.len() {
            let SplitState::Converge(_) = self.others[at].state else { continue };
            let (pc, frame) = (self.others[at].pc, self.others[at].frame);
            let (mut here, mut wanted) = (0, 0);
            for split in &self.others {
                if let SplitState::Converge(members) = split.state
                    && split.pc == pc
                    && split.frame == frame
                {
                    here |= split.mask;
                    wanted |= members;
                }
            }
            if wanted & self.live & !here != 0 {
                continue;
            }
            return self.run_together(pc, frame, here);
        }
        false
    }

    /// Runs the operation at `pc` for several splits at once; each goes on by itself behind it.
    fn run_together(&mut self, pc: u32, frame: u32, lanes: u32) -> bool {
        self.put_away(SplitState::Runnable);
        let (pc_before, frame_before) = (self.pc, self.frame);
        self.pc = pc;
        self.mask = lanes;
        self.join = NONE;
        self.frame = frame;
        self.use_frame();
        // SAFETY: as in `run_split`.
        let flow = unsafe {
            let op = &*self.ops.add(pc as usize);
            (op.exec)(self, op)
        };
        self.mask = 0;
        if flow != Flow::Next {
            // A fault, or it waits for yet others: the splits stay as they are.
            (self.pc, self.frame) = (pc_before, frame_before);
            self.use_frame();
            return flow == Flow::Fault;
        }
        for split in &mut self.others {
            if matches!(split.state, SplitState::Converge(_)) && split.pc == pc && split.frame == frame {
                split.pc = pc + 1;
                split.state = SplitState::Runnable;
            }
        }
        true
    }
}

/// Signs of waiting after which a warp gives way within its slice.
const SPINS_IN_SLICE: u32 = 64;
/// Tested in the run loop before the exact comparison: `SPINS_IN_SLICE` and everything above.
const SPIN_CHECK: u32 = !(SPINS_IN_SLICE - 1);
/// Slices spent waiting after which lanes at a join go on without the others.
pub(super) const SPUN_BEFORE_RELEASE: u32 = 16;
