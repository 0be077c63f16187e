//! Vector clocks: what a warp has seen of the others, in its block and in other blocks of the launch.
//!
//! A warp's own clock rises whenever it hands something on (a barrier, a fence, a release, a warp-wide synchronisation),
//! so that what it does afterwards is told from what it did before.

use std::{collections::BTreeMap, sync::Arc};

/// Clocks fit the shared memory's shadow words; beyond, a block is no longer checked.
pub(crate) const CLOCK_LIMIT: u32 = (1 << 24) - 2;

/// Blocks that a clock tells apart; a clock that would know more claims to know everything, which silences checks.
const BLOCKS_LIMIT: usize = 1 << 12;

/// What has been seen of other blocks: for each, the clocks of its warps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    blocks: BTreeMap<u32, Arc<[u32]>>,
    everything: bool,
}

fn covers(a: &[u32], b: &[u32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a >= b)
}

impl Seen {
    /// Whether an access of `warp` of `block` at `clock` is known to have happened.
    pub(crate) fn has(&self, block: u32, warp: u32, clock: u32) -> bool {
        self.everything
            || self.blocks.get(&block).and_then(|clocks| clocks.get(warp as usize)).is_some_and(|seen| *seen >= clock)
    }

    fn knows(&self, block: u32, clocks: &Arc<[u32]>) -> bool {
        self.blocks.get(&block).is_some_and(|mine| Arc::ptr_eq(mine, clocks) || covers(mine, clocks))
    }

    fn learn(&mut self, block: u32, clocks: &Arc<[u32]>) {
        let full = self.blocks.len() >= BLOCKS_LIMIT;
        match self.blocks.get_mut(&block) {
            Some(mine) if Arc::ptr_eq(mine, clocks) || covers(mine, clocks) => {}
            Some(mine) => {
                *mine = if covers(clocks, mine) {
                    clocks.clone()
                } else {
                    mine.iter().zip(&**clocks).map(|(a, b)| *a.max(b)).collect()
                };
            }
            None if full => self.everything = true,
            None => {
                self.blocks.insert(block, clocks.clone());
            }
        }
    }
}

/// Adds what `other` knows, apart from `except`.
fn join(mine: &mut Arc<Seen>, other: &Seen, except: Option<u32>) {
    if other.everything && !mine.everything {
        Arc::make_mut(mine).everything = true;
    }
    for (&block, clocks) in &other.blocks {
        if Some(block) != except && !mine.everything && !mine.knows(block, clocks) {
            Arc::make_mut(mine).learn(block, clocks);
        }
    }
}

/// What a release hands on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message(Arc<Seen>);

impl Message {
    /// Both messages in one.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.0.blocks.is_empty() && !self.0.everything {
            self.0 = other.0.clone();
        } else if !Arc::ptr_eq(&self.0, &other.0) {
            join(&mut self.0, &other.0, None);
        }
    }
}

/// What arrivals at a barrier hand to those who wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathering {
    clocks: [u32; 32],
    others: Arc<Seen>,
}

/// Order among the lanes of one warp.
#[derive(Clone, Debug)]
struct LaneOrder {
    /// What happened at clocks below this is ordered for all lanes.
    all: u32,
    /// `pairs[b][a]`: what lane a did at clocks below this is ordered before lane b.
    pairs: Option<Box<[[u32; 32]; 32]>>,
    /// The clock of each lane's last fence.
    fenced: [u32; 32],
}

impl LaneOrder {
    fn sync(&mut self, members: u32, live: u32, clock: u32) {
        if live & !members == 0 {
            self.all = clock;
            self.pairs = None;
            return;
        }
        let all = self.all;
        let pairs = self.pairs.get_or_insert_with(|| Box::new([[all; 32]; 32]));
        let mut row = [0; 32];
        let lanes = || (0..32).filter(|lane| members >> lane & 1 != 0);
        for lane in lanes() {
            for (known, new) in row.iter_mut().zip(&pairs[lane]) {
                *known = (*known).max(*new);
            }
        }
        for lane in lanes() {
            row[lane] = clock;
        }
        for lane in lanes() {
            pairs[lane] = row;
        }
    }

    /// Fences of some lanes: what other lanes did before their own last fence is ordered before what these do now, as a
    /// lock handed on within a warp needs. (Whether a strong access carried it over is not looked at.)
    fn fence(&mut self, lanes: u32, clock: u32) {
        let all = self.all;
        let pairs = self.pairs.get_or_insert_with(|| Box::new([[all; 32]; 32]));
        let members = || (0..32).filter(|lane| lanes >> lane & 1 != 0);
        for lane in members() {
            for (known, fenced) in pairs[lane].iter_mut().zip(&self.fenced) {
                *known = (*known).max(*fenced);
            }
        }
        for lane in members() {
            self.fenced[lane] = clock;
        }
    }

    fn ordered(&self, before: u32, after: u32, clock: u32) -> bool {
        clock < self.all
            || self.pairs.as_ref().is_some_and(|pairs| clock < pairs[after as usize & 31][before as usize & 31])
    }
}

/// The clocks of one warp.
#[derive(Debug)]
pub(crate) struct WarpClock {
    block: u32,
    warp: u32,
    /// Its own.
    pub(crate) now: u32,
    /// Warps of its block.
    warps: usize,
    /// What it has seen of the warps of its block. Its own entry is not used.
    seen: [u32; 32],
    others: Arc<Seen>,
    memory: LaneOrder,
    execution: LaneOrder,
    /// For each warp the highest clock whose accesses are ordered before every lane of this warp.
    pub(crate) bound: [u32; 32],
    /// The lowest of those: what was done up to this clock, by whichever warp, is ordered before.
    pub(crate) floor: u32,
    /// What strong reads have found, acquired by the next fence: any, and one that reaches beyond the block.
    found: [Option<Message>; 2],
    /// What the last fence of either reach hands on with the strong writes of its lanes.
    fenced: [Option<(Message, u32)>; 2],
}

impl WarpClock {
    /// A warp at the start of its block; clocks start at `start`, and nothing below matters any more.
    pub(crate) fn new(block: u32, warp: u32, warps: usize, start: u32) -> Self {
        let order = LaneOrder { all: start, pairs: None, fenced: [0; 32] };
        Self {
            block,
            warp,
            now: start,
            warps,
            seen: [start - 1; 32],
            others: Arc::default(),
            memory: order.clone(),
            execution: order,
            bound: [start - 1; 32],
            floor: start - 1,
            found: [None, None],
            fenced: [None, None],
        }
    }

    /// Whether an access of another warp (or of this one, for all lanes) is ordered before what this warp does now.
    pub(crate) fn saw(&self, block: u32, warp: u32, clock: u32) -> bool {
        if block == self.block {
            self.bound.get(warp as usize).is_some_and(|bound| *bound >= clock)
        } else {
            !self.is_alone() && self.others.has(block, warp, clock)
        }
    }

    /// Whether an access of lane `before` of this warp is ordered before what lane `after` does now. For a write after a
    /// read it is enough that the lanes have met.
    pub(crate) fn lanes_ordered(&self, before: u32, after: u32, clock: u32, met: bool) -> bool {
        before == after
            || self.memory.ordered(before, after, clock)
            || met && self.execution.ordered(before, after, clock)
    }

    /// As [`Self::lanes_ordered`], for an access by lanes that are not known: false only if it is certainly not ordered.
    pub(crate) fn any_lane_ordered(&self, clock: u32, met: bool) -> bool {
        let order = |order: &LaneOrder| clock < order.all || order.pairs.is_some();
        order(&self.memory) || met && order(&self.execution)
    }

    /// Whether nothing of other blocks has been seen.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.others.blocks.is_empty() && !self.others.everything
    }

    fn tick(&mut self) {
        self.now += 1;
    }

    /// Lanes of the warp meet; `memory`: and order their accesses.
    pub(crate) fn warp_sync(&mut self, members: u32, live: u32, memory: bool) {
        self.tick();
        if memory {
            self.memory.sync(members, live, self.now);
            self.bound[self.warp as usize] = self.memory.all - 1;
            self.settle();
        }
        self.execution.sync(members, live, self.now);
    }

    fn settle(&mut self) {
        self.floor = self.bound[..self.warps].iter().fold(u32::MAX, |lowest, bound| lowest.min(*bound));
    }

    /// Arrives at a barrier: all it has done so far is handed to those who wait there.
    pub(crate) fn arrive(&mut self, gathering: &mut Gathering) {
        for (known, seen) in gathering.clocks.iter_mut().zip(&self.seen) {
            *known = (*known).max(*seen);
        }
        let own = &mut gathering.clocks[self.warp as usize];
        *own = (*own).max(self.now);
        join(&mut gathering.others, &self.others, Some(self.block));
        self.tick();
    }

    /// Takes what has been gathered at a barrier.
    pub(crate) fn take(&mut self, gathering: &Gathering) {
        for warp in (0..self.warps).filter(|warp| *warp != self.warp as usize) {
            self.seen[warp] = self.seen[warp].max(gathering.clocks[warp]);
            self.bound[warp] = self.seen[warp];
        }
        join(&mut self.others, &gathering.others, Some(self.block));
        self.settle();
    }

    /// The warps of `warps` have met, each with all its lanes: from `clock` on, which is above all that they have used, they
    /// go on together. What any of them did before is ordered, so one comparison is enough to say so.
    pub(crate) fn meet(&mut self, warps: u32, clock: u32) {
        self.now = clock;
        self.memory = LaneOrder { all: clock, pairs: None, fenced: self.memory.fenced };
        self.execution = LaneOrder { all: clock, pairs: None, fenced: self.execution.fenced };
        for warp in (0..self.warps).filter(|warp| warps >> warp & 1 != 0) {
            (self.seen[warp], self.bound[warp]) = (clock - 1, clock - 1);
        }
        self.settle();
    }

    /// All this warp has done and seen so far.
    pub(crate) fn message(&self) -> Message {
        let mut own = self.seen[..self.warps].to_vec();
        own[self.warp as usize] = self.now;
        let mut seen = Seen { blocks: BTreeMap::new(), everything: self.others.everything };
        if !self.others.blocks.is_empty() {
            seen = Seen::clone(&self.others);
        }
        seen.blocks.insert(self.block, own.into());
        Message(Arc::new(seen))
    }

    /// Hands on all it has done so far.
    pub(crate) fn release(&mut self) -> Message {
        let message = self.message();
        self.tick();
        message
    }

    /// Takes a message.
    pub(crate) fn acquire(&mut self, message: &Message) {
        if let Some(clocks) = message.0.blocks.get(&self.block) {
            for (warp, (seen, new)) in self.seen.iter_mut().zip(&**clocks).enumerate() {
                *seen = (*seen).max(*new);
                if warp != self.warp as usize {
                    self.bound[warp] = *seen;
                }
            }
            self.settle();
        }
        let block = self.block;
        join(&mut self.others, &message.0, Some(block));
    }

    /// A strong read has found a message: the next fence acquires it; `wide`: only one that reaches beyond the block.
    pub(crate) fn find(&mut self, message: &Message, wide: bool) {
        match &mut self.found[usize::from(wide)] {
            Some(found) => found.add(message),
            found => *found = Some(message.clone()),
        }
    }

    /// A fence of `lanes`; `wide`: beyond the block.
    pub(crate) fn fence(&mut self, lanes: u32, wide: bool) {
        self.fence_lanes(lanes);
        for reach in 0..=usize::from(wide) {
            if let Some(found) = self.found[reach].take() {
                self.acquire(&found);
            }
        }
        let message = self.release();
        for reach in 0..=usize::from(wide) {
            let before = self.fenced[reach].as_ref().map_or(0, |(_, lanes)| *lanes);
            self.fenced[reach] = Some((message.clone(), lanes | before));
        }
    }

    /// A fence, or a strong access that acquires or releases, as far as it orders lanes of this warp.
    pub(crate) fn fence_lanes(&mut self, lanes: u32) {
        self.tick();
        self.memory.fence(lanes, self.now);
    }

    /// Whether [`Self::fenced`] gives anything.
    pub(crate) fn has_fenced(&self, lanes: u32) -> bool {
        self.fenced[0].as_ref().is_some_and(|(_, fenced)| fenced & lanes != 0)
    }

    /// What strong writes of `lanes` hand on without being releases themselves: within the block, and beyond.
    pub(crate) fn fenced(&self, lanes: u32) -> [Option<&Message>; 2] {
        [0, 1].map(|reach| {
            self.fenced[reach].as_ref().filter(|(_, fenced)| fenced & lanes != 0).map(|(message, _)| message)
        })
    }
}

/// What has been released at an address of memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Location {
    narrow: Option<(u32, Message)>,
    wide: Option<Message>,
}

impl Location {
    /// What a strong read of `clock`'s warp has found here. To be told after it has read: whoever wrote what it has read has
    /// told so before it wrote.
    pub(crate) fn read(&self, clock: &mut WarpClock, how: Strong) {
        if let Some((block, message)) = &self.narrow
            && *block == clock.block
        {
            match how.acquires {
                true => clock.acquire(message),
                false => clock.find(message, false),
            }
        }
        if let Some(message) = &self.wide
            && how.wide
        {
            match how.acquires {
                true => clock.acquire(message),
                false => clock.find(message, true),
            }
        }
    }

    /// What a strong write of `clock`'s warp hands on. To be told before anybody can read what it writes.
    pub(crate) fn write(&mut self, clock: &mut WarpClock, lanes: u32, how: Strong) {
        let own = how.releases.then(|| clock.release());
        let [narrow, wide] = match &own {
            Some(message) => [Some(message), how.wide.then_some(message)],
            None => {
                let [narrow, wide] = clock.fenced(lanes);
                [narrow, wide.filter(|_| how.wide)]
            }
        };
        if !how.reads {
            // A plain store ends what was released here before; an atomic continues it.
            *self = Self::default();
        }
        if let Some(message) = narrow {
            match &mut self.narrow {
                Some((block, old)) if *block == clock.block => old.add(message),
                other => *other = Some((clock.block, message.clone())),
            }
        }
        if let Some(message) = wide {
            self.wide.get_or_insert_default().add(message);
        }
    }
}

/// A strong access, as [`Location`] sees it: what it does, its own order, and whether its scope reaches beyond the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strong {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
    pub(crate) acquires: bool,
    pub(crate) releases: bool,
    pub(crate) wide: bool,
}
