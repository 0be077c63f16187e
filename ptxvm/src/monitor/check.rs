//! The checker of a block: memory accesses, and the order that everything else makes among them.

use super::{
    Access, AccessKind, AccessSpace, MbarrierEvent, Scope,
    actor::Actor,
    barriers::Barriers,
    clock::{CLOCK_LIMIT, Location, Strong, WarpClock},
    copies::{self, Copies},
    gather::parts,
    launch::LaunchChecker,
    line::{Conflict, Line, Note, Relation},
    pages::{PAGE, PageState, Pages},
    shared::{Hit, SharedAccess, SharedShadow, Wrong},
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
    /// Bytes of local memory that have been written: for each warp and lane, 4 bits per word.
    local: Vec<Vec<Vec<u8>>>,
    copies: Vec<Copies>,
    hits: Vec<Hit>,
    conflicts: Vec<(Conflict, u64)>,
    /// The last launch or copy whose order was asked for, and whether it happened before this launch.
    known: (u32, bool),
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
            local: vec![Vec::new(); warps],
            copies: vec![Copies::default(); warps],
            hits: Vec::new(),
            conflicts: Vec::new(),
            known: (0, true),
        }
    }

    fn site(&self, actor: &Actor) -> u32 {
        self.launch.kernel().site(actor.function, actor.instruction)
    }

    pub(super) fn at(&self, actor: &Actor, lane: u32) -> At {
        At { block: self.block, warp: actor.warp, lane, site: self.site(actor) }
    }

    /// A memory access.
    pub(crate) fn access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        if self.warps[actor.warp as usize].now > CLOCK_LIMIT {
            return;
        }
        match access.space {
            AccessSpace::Shared => self.shared_access(actor, access, extra),
            AccessSpace::Global => self.global_access(actor, access, extra),
            AccessSpace::Local => self.local_access(actor, access),
        }
    }

    fn shared_access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let site = self.site(actor);
        let last = (0..32).filter(|lane| access.mask >> lane & 1 != 0).map(|lane| access.addresses[lane]).max();
        self.shared.reserve(last.unwrap_or(0).saturating_add(access.bytes.into()));
        let clock = &self.warps[actor.warp as usize];
        let strong = is_strong(access);
        let mut one = SharedAccess {
            warp: actor.warp,
            lane: 0,
            site,
            address: 0,
            bytes: access.bytes,
            strong,
            collective: extra.collective,
        };
        let mut left = access.mask;
        while left != 0 {
            one.lane = left.trailing_zeros();
            left &= left - 1;
            one.address = access.addresses[one.lane as usize] as u32;
            match access.kind {
                AccessKind::Read | AccessKind::AsyncRead => self.shared.read(clock, &one, &mut self.hits),
                AccessKind::Write => self.shared.write(clock, &one, false, &mut self.hits),
                AccessKind::Atomic => self.shared.write(clock, &one, true, &mut self.hits),
                AccessKind::AsyncWrite => self.shared.copying(clock, &one, &mut self.hits),
            }
        }
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
            self.locations.entry(word).or_default().access(clock, 1 << lane, Strong { wide: false, ..how });
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

    fn global_access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let site = self.site(actor);
        let launch = self.launch.clone();
        let writes = matches!(access.kind, AccessKind::Write | AccessKind::Atomic | AccessKind::AsyncWrite);
        let reads = !matches!(access.kind, AccessKind::Write | AccessKind::AsyncWrite);
        let strong = is_strong(access);
        let (source, block, warp) = (launch.source.id, self.block, actor.warp);
        let clock = &self.warps[warp as usize];
        let who = (block, warp, clock.now);
        let mut missing: Option<u64> = None;
        let mut held: Option<(u64, MutexGuard<'_, PageState>)> = None;
        let mut released = false;
        let (known, conflicts) = (&mut self.known, &mut self.conflicts);
        parts(access.mask, access.bytes, access.addresses, |part| {
            let number = part.line / PAGE;
            if held.as_ref().is_none_or(|(page, _)| *page != number) {
                held = None;
                held = Some((number, launch.pages.lock(part.line)));
            }
            let Some((_, page)) = &mut held else { return };
            let line = (part.line % PAGE / super::pages::LINE) as usize;
            let written = &mut page.written[line];
            if reads && part.mask & !*written != 0 && missing.is_none() {
                missing = Some(part.line + u64::from((part.mask & !*written).trailing_zeros()));
            }
            if writes {
                *written |= part.mask;
            }
            released |= page.locations.is_some();
            let note = Note::new(source, who, site, part.lanes, (writes, strong), part.mask);
            let order = |old: &Note| {
                if old.source != source {
                    if known.0 != old.source {
                        *known = (old.source, launch.comes_after(old.source));
                    }
                    return if known.1 { Relation::Before } else { Relation::Apart };
                }
                match clock.saw(old.block, old.warp.into(), old.clock) {
                    true => Relation::Before,
                    false if old.block == block && u32::from(old.warp) == warp => Relation::SameWarp,
                    false => Relation::Apart,
                }
            };
            let line: &mut Line = &mut page.lines[line];
            line.access(&note, Some(clock), order, |conflict| conflicts.push((conflict, part.line)));
        });
        drop(held);
        if let Some(address) = missing {
            self.tell_unwritten(actor, access, address);
        }
        if writes && access.kind == AccessKind::Write && !access.mask.is_power_of_two() {
            self.check_lanes_write_apart(actor, access, extra);
        }
        if !self.conflicts.is_empty() {
            self.tell_conflicts(actor, access, extra);
        }
        if strong {
            self.global_release(actor, access, launch.pages, released);
        }
    }

    fn global_release(&mut self, actor: &Actor, access: &Access<'_>, pages: &Pages, released: bool) {
        let clock = &mut self.warps[actor.warp as usize];
        let how = strong(access);
        if how.acquires || how.releases {
            clock.fence_lanes(access.mask);
        }
        let hands_on = how.writes && (how.releases || clock.has_fenced(access.mask));
        if !released && !hands_on {
            return;
        }
        for lane in (0..32).filter(|lane| access.mask >> lane & 1 != 0) {
            let address = access.addresses[lane as usize];
            let word = (address % PAGE / 4) as u16;
            let mut page = pages.lock(address);
            if hands_on {
                page.locations.get_or_insert_default().entry(word).or_default().access(clock, 1 << lane, how);
            } else if let Some(location) = page.locations.as_mut().and_then(|locations| locations.get_mut(&word)) {
                location.access(clock, 1 << lane, how);
            }
        }
    }

    #[cold]
    fn tell_unwritten(&mut self, actor: &Actor, access: &Access<'_>, address: u64) {
        let holds = |lane: &u32| {
            let start = access.addresses[*lane as usize];
            access.mask >> lane & 1 != 0 && (start..start + u64::from(access.bytes)).contains(&address)
        };
        let lane = (0..32).find(holds).unwrap_or(actor.leader());
        let at = self.at(actor, lane);
        self.teller.unwritten_global(at, address);
    }

    /// Lanes of one store that write the same place, but not the same.
    fn check_lanes_write_apart(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let Some(value) = extra.values else { return };
        let first = access.mask.trailing_zeros() as usize;
        let width = u64::from(access.bytes);
        let ascending = (first..32).all(|lane| {
            access.mask >> lane & 1 == 0
                || access.addresses[lane] == access.addresses[first].wrapping_add((lane - first) as u64 * width)
        });
        if ascending {
            return;
        }
        let mut lanes: Vec<usize> = (0..32).filter(|lane| access.mask >> lane & 1 != 0).collect();
        lanes.sort_by_key(|lane| access.addresses[*lane]);
        let pair = lanes
            .windows(2)
            .find(|pair| access.addresses[pair[0]] == access.addresses[pair[1]] && value(pair[0]) != value(pair[1]));
        if let Some(pair) = pair {
            let [at, other] = [pair[1], pair[0]].map(|lane| self.at(actor, lane as u32));
            self.teller.lanes_write_apart(at, other, "global", access.addresses[pair[0]]);
        }
    }

    #[cold]
    fn tell_conflicts(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        for (conflict, line) in std::mem::take(&mut self.conflicts) {
            let address = line + u64::from(conflict.byte);
            let holds = |lane: &u32| {
                let start = access.addresses[*lane as usize];
                access.mask >> lane & 1 != 0 && (start..start + u64::from(access.bytes)).contains(&address)
            };
            let lane = (0..32).find(holds).unwrap_or(actor.leader());
            if access.kind == AccessKind::Write && global_stays(access, conflict.mask, line, extra) {
                continue;
            }
            let at = self.at(actor, lane);
            self.teller.global(at, &conflict, access.kind, address);
        }
    }

    fn local_access(&mut self, actor: &Actor, access: &Access<'_>) {
        let lanes = &mut self.local[actor.warp as usize];
        if lanes.is_empty() {
            lanes.resize(32, Vec::new());
        }
        let mut bad = None;
        for lane in (0..32u32).filter(|lane| access.mask >> lane & 1 != 0) {
            let words = &mut lanes[lane as usize];
            let start = access.addresses[lane as usize];
            let end = start + u64::from(access.bytes.max(1));
            let last = (end as usize).div_ceil(4);
            if words.len() < last {
                words.resize(last, 0);
            }
            let bit = |byte: u64| ((byte / 4) as usize, 1u8 << (byte % 4));
            if access.kind == AccessKind::Write {
                (start..end).map(bit).for_each(|(word, bit)| words[word] |= bit);
            } else if (start..end).map(bit).all(|(word, bit)| words[word] & bit == 0) {
                // A part that was never written may be the padding of a structure that is moved as a whole.
                bad = bad.or(Some((lane, start)));
            }
        }
        if let Some((lane, address)) = bad {
            let at = self.at(actor, lane);
            self.teller.unwritten_local(at, address);
        }
    }

    /// `cp.async.commit_group`.
    pub(crate) fn commit(&mut self, actor: &Actor) {
        self.copies[actor.warp as usize].commit(actor.mask);
    }

    /// `cp.async.wait_group` and `wait_all`.
    pub(crate) fn wait(&mut self, actor: &Actor, pending: u32, all: bool) {
        let (warp, now) = (actor.warp, self.warps[actor.warp as usize].now);
        let shared = &mut self.shared;
        self.copies[warp as usize].wait(actor.mask, pending, all, |copy| land(shared, warp, now, copy));
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
        let at = self.at(actor, actor.leader());
        let clock = &mut self.warps[actor.warp as usize];
        match event {
            MbarrierEvent::Track => self.copies[actor.warp as usize].track(actor.mask, address, clock.now),
            MbarrierEvent::Complete => self.copies.iter_mut().for_each(|copies| copies.complete(address)),
            MbarrierEvent::Observe => {
                for (warp, copies) in self.copies.iter_mut().enumerate() {
                    copies.observe(address, |clock, copy| land(&mut self.shared, warp as u32, clock, copy));
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

/// A copy of a warp is there, as if its lanes had written it when the warp's clock was `clock`.
fn land(shared: &mut SharedShadow, warp: u32, clock: u32, copy: &copies::Copy) {
    for lane in (0..32).filter(|lane| copy.lanes >> lane & 1 != 0) {
        let address = copy.addresses[lane as usize] as u32;
        let (site, bytes) = (copy.site, copy.bytes);
        let one = SharedAccess { warp, lane, site, address, bytes, strong: false, collective: false };
        shared.landed(clock, &one);
    }
}

fn is_strong(access: &Access<'_>) -> bool {
    access.ordering.strong || access.kind == AccessKind::Atomic
}

fn strong(access: &Access<'_>) -> Strong {
    Strong {
        reads: access.kind != AccessKind::Write,
        writes: access.kind != AccessKind::Read,
        acquires: access.ordering.acquire,
        releases: access.ordering.release,
        wide: access.ordering.scope != Scope::Block,
    }
}

/// Whether the lanes of a store that touch `mask` of a line leave memory as it is: then it does not matter when they come.
fn global_stays(access: &Access<'_>, mask: u128, line: u64, extra: &Extra<'_>) -> bool {
    let Some(value) = extra.values else { return false };
    let bytes = access.bytes as usize;
    if bytes > 16 {
        return false;
    }
    let concerned = |lane: &usize| {
        let offset = access.addresses[*lane].wrapping_sub(line);
        access.mask >> lane & 1 != 0
            && offset < super::pages::LINE
            && mask & super::pages::range_mask(offset as u32, access.bytes) != 0
    };
    (0..32).filter(concerned).all(|lane| {
        let mut old = [0u8; 16];
        // SAFETY: the access has been found to lie in an allocation; another thread may write it at the same time, which is
        // the very thing to be reported, and every value of bytes is fine.
        unsafe { std::ptr::copy_nonoverlapping(access.addresses[lane] as *const u8, old.as_mut_ptr(), bytes) };
        old[..bytes] == value(lane).to_le_bytes()[..bytes]
    })
}
