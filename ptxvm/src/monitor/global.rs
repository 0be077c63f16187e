//! Accesses to global memory, as the checker of a block sees them.

use super::{
    Access, AccessKind,
    actor::Actor,
    check::{Checker, Extra, is_strong, strong},
    clock::Strong,
    gather::parts,
    line::{Line, Note, Relation, WordAccess},
    pages::{LINE, PAGE, PageGuard, Pages},
};

/// A strong read whose effect on order is still to come.
pub(super) struct Reading {
    warp: u32,
    mask: u32,
    addresses: [u64; 32],
    how: Strong,
}

/// Which word of its page an address is in.
fn word_of(address: u64) -> u16 {
    (address % PAGE / 4) as u16
}

impl Checker {
    pub(super) fn global_access(&mut self, actor: &Actor, access: &Access<'_>, extra: &Extra<'_>) {
        let site = self.site(actor);
        let writes = matches!(access.kind, AccessKind::Write | AccessKind::Atomic | AccessKind::AsyncWrite);
        let reads = !matches!(access.kind, AccessKind::Write | AccessKind::AsyncWrite);
        let strong = is_strong(access);
        let Self { launch, block, warps, known, conflicts, .. } = self;
        let (source, block, warp) = (launch.source.id, *block, actor.warp);
        let clock = &warps[warp as usize];
        let who = (block, warp, clock.now);
        let mut missing: Option<u64> = None;
        let mut held: Option<(u64, PageGuard<'_>)> = None;
        let mut released = false;
        let mut lanes = access.mask;
        if far_apart(access) {
            launch.pages.fetch(access.mask, access.addresses);
            let plain = matches!(access.kind, AccessKind::Read | AccessKind::Write) && !strong;
            if plain && access.bytes == 4 && launch.record.is_none() && site <= u16::MAX.into() {
                let word = WordAccess { source, block, clock: clock.now, site: site as u16, warp: warp as u8, writes };
                let over = if known.1 { known.0 } else { 0 };
                lanes = words_far_apart(&launch.pages, access, &word, over);
            }
        }
        parts(lanes, access.bytes, access.addresses, |part| {
            let number = part.line / PAGE;
            if held.as_ref().is_none_or(|(page, _)| *page != number) {
                held = None;
                let page = launch.pages.lock(part.line);
                if let Some(record) = &launch.record {
                    record.touches(number, &page);
                }
                held = Some((number, page));
            }
            let Some((_, page)) = &mut held else { return };
            let line = (part.line % PAGE / LINE) as usize;
            let written = &mut page.written[line];
            if reads && part.mask & !*written != 0 && missing.is_none() {
                missing = Some(part.line + u64::from((part.mask & !*written).trailing_zeros()));
            }
            if writes {
                if let Some(record) = &launch.record {
                    record.writes(part.line, part.mask);
                }
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
            self.global_release(actor, access, released);
        }
    }

    fn global_release(&mut self, actor: &Actor, access: &Access<'_>, released: bool) {
        let Self { launch, warps, .. } = self;
        let (pages, clock) = (&launch.pages, &mut warps[actor.warp as usize]);
        let how = strong(access);
        if how.acquires || how.releases {
            clock.fence_lanes(access.mask);
        }
        if how.reads {
            self.reading = Some(Reading { warp: actor.warp, mask: access.mask, addresses: *access.addresses, how });
        }
        let hands_on = how.releases || clock.has_fenced(access.mask);
        if !how.writes || !released && !hands_on {
            return;
        }
        for lane in (0..32).filter(|lane| access.mask >> lane & 1 != 0) {
            let address = access.addresses[lane as usize];
            let mut page = pages.lock(address);
            let word = word_of(address);
            if hands_on {
                page.locations.get_or_insert_default().entry(word).or_default().write(clock, 1 << lane, how);
            } else if let Some(location) = page.locations.as_mut().and_then(|locations| locations.get_mut(&word)) {
                location.write(clock, 1 << lane, how);
            }
        }
    }

    /// A strong read of global memory that this was told of has been performed. Other blocks go on meanwhile: what it has
    /// read may be newer than what was there when this was told.
    pub(crate) fn performed(&mut self) {
        let Some(Reading { warp, mask, addresses, how }) = self.reading.take() else { return };
        let clock = &mut self.warps[warp as usize];
        let mut held: Option<(u64, PageGuard<'_>)> = None;
        let mut last = None;
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            let address = addresses[lane];
            if last.replace(address) == Some(address) {
                continue;
            }
            let number = address / PAGE;
            if held.as_ref().is_none_or(|(page, _)| *page != number) {
                drop(held.take());
                held = Some((number, self.launch.pages.lock(address)));
            }
            let locations = held.as_ref().and_then(|(_, page)| page.locations.as_ref());
            if let Some(location) = locations.and_then(|locations| locations.get(&word_of(address))) {
                location.read(clock, how);
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
        if access.mask == u32::MAX {
            // The sign bits: whether addresses, which are below 2^63, rise (fall) from every lane to the next.
            let (mut rising, mut falling) = (u64::MAX, u64::MAX);
            for lane in 0..31 {
                let step = access.addresses[lane].wrapping_sub(access.addresses[lane + 1]);
                rising &= step;
                falling &= !step & step.wrapping_neg();
            }
            if (rising | falling) >> 63 != 0 {
                return;
            }
        }
        let first = access.mask.trailing_zeros() as usize;
        let (mut list, mut count) = ([0; 32], 0usize);
        let (mut rising, mut falling) = (true, true);
        for lane in (first..32).filter(|lane| access.mask >> lane & 1 != 0) {
            if let Some(before) = count.checked_sub(1).map(|last| access.addresses[list[last]]) {
                rising &= access.addresses[lane] > before;
                falling &= access.addresses[lane] < before;
            }
            list[count] = lane;
            count += 1;
        }
        if rising || falling {
            return;
        }
        let lanes = &mut list[..count];
        lanes.sort_unstable_by_key(|lane| access.addresses[*lane]);
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
}

/// Whether neighbouring lanes access lines of their own, as far as the first two tell.
fn far_apart(access: &Access<'_>) -> bool {
    let others = access.mask & access.mask.wrapping_sub(1);
    if others == 0 {
        return false;
    }
    let [first, second] = [access.mask, others].map(|mask| access.addresses[mask.trailing_zeros() as usize & 31]);
    first.abs_diff(second) >= LINE
}

/// Notes those lanes' words that can be noted the short way, if each lane's line lies above the one's before. Gives the other lanes.
fn words_far_apart(pages: &Pages, access: &Access<'_>, word: &WordAccess, over: u32) -> u32 {
    let (mut left, mut before) = (access.mask, None);
    while left != 0 {
        let line = Some(access.addresses[left.trailing_zeros() as usize & 31] / LINE);
        if line <= before {
            return access.mask;
        }
        before = line;
        left &= left - 1;
    }
    let (mut left, mut others) = (access.mask, 0);
    let mut held: Option<(u64, PageGuard<'_>)> = None;
    while left != 0 {
        let lane = left.trailing_zeros();
        left &= left - 1;
        let address = access.addresses[lane as usize & 31];
        if held.as_ref().is_none_or(|(page, _)| *page != address / PAGE) {
            drop(held.take());
            held = Some((address / PAGE, pages.lock(address)));
        }
        let Some((_, page)) = &mut held else { continue };
        let (line, at) = ((address % PAGE / LINE) as usize, (address % LINE / 4) as u32);
        let bytes = 0xf << (4 * at);
        let known = word.writes || bytes & !page.written[line] == 0;
        if known && page.lines[line].access_word(word, at, lane, over) {
            page.written[line] |= bytes;
        } else {
            others |= 1 << lane;
        }
    }
    others
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
            && offset < LINE
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
