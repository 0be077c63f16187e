//! The checker of a block: memory accesses, and the order that everything else makes among them.

use super::{
    Access, AccessKind, AccessSpace, MbarrierEvent, Scope,
    actor::Actor,
    barriers::Barriers,
    clock::{CLOCK_LIMIT, Location, Strong, WarpClock},
    copies::{self, Copies},
    global::Reading,
    launch::LaunchChecker,
    line::Conflict,
    local::LocalShadow,
    shared::{Hit, How, SharedAccess, SharedShadow, Wrong},
    site::At,
    tell::Teller,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is known of an access beside what is in it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra<'a> {
    /// Reads the value that a lane stores.
    pub(crate) values: Option<&'a dyn Fn(usize) -> u128>,
    /// The block's shared memory as it is before the access.
    pub(crate) memory: Option<&'a [u8]>,
    /// A warp-wide instruction: all lanes have met when it is done.
    pub(crate) collective: bool,
}

/// See the module.
pub(crate) struct Checker {
    pub(super) launch: Arc<LaunchChecker>,
    pub(super) block: u32,
    pub(super) warps: Vec<WarpClock>,
    pub(super) barriers: Barriers,
    pub(super) teller: Teller,
    shared: SharedShadow,
    /// Released at words of shared memory.
    locations: HashMap<u32, Location>,
    /// Of each warp.
    local: Vec<LocalShadow>,
    copies: Vec<Copies>,
    /// A strong read of global memory that is being performed.
    pub(super) reading: Option<Reading>,
    hits: Vec<Hit>,
    pub(super) conflicts: Vec<(Conflict, u64)>,
    /// The last launch or copy whose order was asked for, and whether it happened before this launch.
    pub(super) known: (u32, bool),
    /// Memory or a barrier may have changed: something that others may wait for.
    pub(super) effect: bool,
}

static SHADOWS: Mutex<Vec<SharedShadow>> = Mutex::new(Vec::new());

fn shadows() -> MutexGuard<'static, Vec<SharedShadow>> {
    SHADOWS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checker {
    pub(crate) fn new(launch: Arc<LaunchChecker>, block: u32, warps: usize) -> Self {
        let mut shared = shadows().pop().unwrap_or_default();
        shared.begin(warps);
        let start = shared.start;
        Self {
            teller: Teller::new(launch.clone(), block),
            launch,
            block,
            warps: (0..warps as u32).map(|warp| WarpClock::new(block, warp, warps, start)).collect(),
            barriers: Barriers::default(),
            shared,
            locations: HashMap::new(),
            local: vec![LocalShadow::default(); warps],
            copies: vec![Copies::default(); warps],
            reading: None,
            hits: Vec::new(),
            conflicts: Vec::new(),
            known: (0, true),
            effect: false,
        }
    }

    pub(super) fn site(&self, actor: &Actor) -> u32 {
        self.launch.kernel().site(actor.function, actor.instruction)
    }

    pub(super) fn at(&self, actor: &Actor, lane: u32) -> At {
        At { block: self.block, warp: actor.warp, lane, site: self.site(actor) }
    }

    /// A memory access.
    pub(crate) fn access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        if self.warps[actor.warp as usize].now > CLOCK_LIMIT {
            self.effect = true;
            return;
        }
        self.performed();
        // Atomics say so themselves: most of those that wait change nothing. Local memory is part of a warp's own state.
        let stores = matches!(access.kind, AccessKind::Write | AccessKind::AsyncWrite);
        self.effect |= stores && access.space != AccessSpace::Local;
        match access.space {
            AccessSpace::Shared => self.shared_access(actor, access, extra),
            AccessSpace::Global => self.global_access(actor, access, extra),
            AccessSpace::Local => self.local_access(actor, access),
        }
    }

    fn shared_access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let site = self.site(actor);
        let room = extra.memory.map_or_else(|| end(access), |memory| memory.len() as u64);
        self.shared.reserve(room);
        let strong = is_strong(access);
        let one = SharedAccess {
            warp: actor.warp,
            lane: 0,
            site,
            address: 0,
            bytes: access.bytes,
            strong,
            collective: extra.collective,
        };
        let how = match access.kind {
            AccessKind::Read | AccessKind::AsyncRead => How::Read,
            AccessKind::Write => How::Write,
            AccessKind::Atomic => How::Atomic,
            AccessKind::AsyncWrite => How::Copy,
        };
        let clock = &self.warps[actor.warp as usize];
        self.shared.access(clock, one, how, (access.mask, access.addresses), &mut self.hits);
        if access.kind == AccessKind::AsyncWrite {
            self.copies[actor.warp as usize].start(access.mask, access.addresses, access.bytes, site);
        }
        if !self.hits.is_empty() {
            self.tell_hits(actor, access, extra);
        }
        if strong {
            self.shared_release(actor, access);
        }
    }

    fn local_access(&mut self, actor: &Actor, access: &Access<'_>) {
        if let Some(lane) = self.local[actor.warp as usize].access(access) {
            let at = self.at(actor, lane);
            self.teller.unwritten_local(at, access.addresses[lane as usize]);
        }
    }

    fn shared_release(&mut self, actor: &Actor, access: &Access<'_>) {
        let clock = &mut self.warps[actor.warp as usize];
        let how = strong(access);
        if how.acquires || how.releases {
            clock.fence_lanes(access.mask);
        }
        if self.locations.is_empty() && !how.releases && !clock.has_fenced(access.mask) {
            return;
        }
        for lane in (0..32).filter(|lane| access.mask >> lane & 1 != 0) {
            let word = access.addresses[lane as usize] as u32 / 4;
            // Within a block every scope is wide enough.
            let how = Strong { wide: false, ..how };
            let location = self.locations.entry(word).or_default();
            // Nobody else comes between a read of shared memory and what it finds.
            if how.reads {
                location.read(clock, how);
            }
            if how.writes {
                location.write(clock, 1 << lane, how);
            }
        }
    }

    #[cold]
    fn tell_hits(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let site = self.site(actor);
        let writes = access.kind != AccessKind::Read;
        for hit in std::mem::take(&mut self.hits) {
            let at = At { block: self.block, warp: actor.warp, lane: hit.lane, site };
            let byte = hit.address & 3;
            let other =
                At { block: self.block, warp: hit.other.warp(), lane: hit.other.lane(byte), site: hit.other.site() };
            if hit.what == Wrong::LaneRace && writes && hit.other_writes && other.site == site {
                let both = [hit.lane, other.lane].map(|lane| access.addresses[lane as usize & 31] as u32);
                let now = access.mask >> (other.lane & 31) & 1 != 0 && both[0].abs_diff(both[1]) < access.bytes;
                if now {
                    // One instruction writes the same place twice: fine if both write the same.
                    let same = extra.values.is_none_or(|value| {
                        both[0] != both[1] || value(hit.lane as usize) == value(other.lane as usize)
                    });
                    if !same {
                        self.teller.lanes_write_apart(at, other, "shared", hit.address.into());
                    }
                    continue;
                }
            }
            if writes
                && access.kind == AccessKind::Write
                && matches!(hit.what, Wrong::Race | Wrong::LaneRace)
                && self.shared_stays(access, hit.lane, extra)
            {
                continue;
            }
            self.teller.shared(hit.what, at, other, hit.other_writes, access.kind, hit.address);
        }
    }

    /// Whether a store leaves shared memory as it is: then it does not matter when it comes.
    fn shared_stays(&self, access: &Access<'_>, lane: u32, extra: &Extra<'_>) -> bool {
        let (Some(value), Some(memory)) = (extra.values, extra.memory) else { return false };
        let at = access.addresses[lane as usize] as usize;
        let (bytes, value) = (access.bytes as usize, value(lane as usize));
        bytes <= 16 && memory.get(at..at + bytes).is_some_and(|old| *old == value.to_le_bytes()[..bytes])
    }

    /// `cp.async.commit_group`.
    pub(crate) fn commit(&mut self, actor: &Actor) {
        self.effect = true;
        self.copies[actor.warp as usize].commit(actor.mask);
    }

    /// `cp.async.wait_group` and `wait_all`.
    pub(crate) fn wait(&mut self, actor: &Actor, pending: u32, all: bool) {
        let (warp, now) = (actor.warp, self.warps[actor.warp as usize].now);
        let shared = &mut self.shared;
        self.copies[warp as usize].wait(actor.mask, pending, all, |copy, lanes| land(shared, warp, now, copy, lanes));
    }

    /// A fence.
    pub(crate) fn fence(&mut self, actor: &Actor, scope: Scope) {
        self.warps[actor.warp as usize].fence(actor.mask, scope != Scope::Block);
    }

    /// Lanes read registers of lanes that do not take part in a shuffle.
    pub(crate) fn shuffled_from_absent(&mut self, actor: &Actor, readers: u32) {
        let at = self.at(actor, readers.trailing_zeros());
        self.teller.shuffled_from_absent(at, readers);
    }

    /// An mbarrier.
    pub(crate) fn mbarrier(&mut self, actor: &Actor, address: u64, event: MbarrierEvent) {
        self.effect |= event != MbarrierEvent::Observe;
        let at = self.at(actor, actor.leader());
        let clock = &mut self.warps[actor.warp as usize];
        match event {
            MbarrierEvent::Track => self.copies[actor.warp as usize].track(actor.mask, address, clock.now),
            MbarrierEvent::Complete => self.copies.iter_mut().for_each(|copies| copies.complete(address)),
            MbarrierEvent::Observe => {
                for (warp, copies) in self.copies.iter_mut().enumerate() {
                    copies.observe(address, |clock, copy| {
                        land(&mut self.shared, warp as u32, clock, copy, copy.lanes);
                    });
                }
            }
            _ => {}
        }
        if let Some(init) = self.barriers.mbarrier(clock, at, address, event) {
            self.teller.mbarrier_raced(at, init, address);
        }
    }

    /// The block is done.
    pub(crate) fn block_end(&mut self) {
        self.teller.flush();
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.teller.flush();
        let newest = self.warps.iter().map(|warp| warp.now).max();
        let mut shared = std::mem::take(&mut self.shared);
        shared.newest = shared.newest.max(newest.unwrap_or(0));
        shadows().push(shared);
    }
}

/// The copy of some lanes of a warp is there, as if they had written it when the warp's clock was `clock`.
fn land(shared: &mut SharedShadow, warp: u32, clock: u32, copy: &copies::Copy, lanes: u32) {
    let (site, bytes) = (copy.site, copy.bytes);
    let mut left = lanes;
    while left != 0 {
        let lane = left.trailing_zeros() & 31;
        left &= left - 1;
        let address = copy.addresses[lane as usize];
        let one = SharedAccess { warp, lane, site, address, bytes, strong: false, collective: false };
        shared.landed(clock, &one);
    }
}

/// The end of what an access touches.
fn end(access: &Access<'_>) -> u64 {
    let lanes = (0..32).filter(|lane| access.mask >> lane & 1 != 0);
    lanes.map(|lane| access.addresses[lane].saturating_add(access.bytes.into())).max().unwrap_or(0)
}

pub(super) fn is_strong(access: &Access<'_>) -> bool {
    access.ordering.strong || access.kind == AccessKind::Atomic
}

pub(super) fn strong(access: &Access<'_>) -> Strong {
    Strong {
        reads: access.kind != AccessKind::Write,
        writes: access.kind != AccessKind::Read,
        acquires: access.ordering.acquire,
        releases: access.ordering.release,
        wide: access.ordering.scope != Scope::Block,
    }
}
