//! Who has accessed the bytes of a line of global memory: one note per warp and instruction, with the bytes it concerns.
//!
//! A warp that accesses neighbouring bytes with neighbouring lanes leaves one note for all of them; only where accesses
//! overlap in part are there several.

use super::clock::WarpClock;

/// Readers that are remembered per line: enough that a write which races with many readers races with one of these.
const READERS: usize = 12;

/// Notes of others from which on those that are over are put together: a line is not to be looked through note by note for
/// every launch again.
const CROWDED: usize = 8;

/// [`Note::block`] of accesses of several blocks.
pub(crate) const SEVERAL_BLOCKS: u32 = u32::MAX;

/// Lanes of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// The lane of byte b is `base + (b >> shift)`.
    Side { base: i8, shift: u8 },
    /// Several lanes have accessed each byte.
    Several,
    /// It is not known which lane accessed which byte.
    Unknown,
}

impl Lanes {
    /// The lane that accessed byte `byte` of the line; above 31 if it is not known.
    pub(crate) fn of(self, byte: u32) -> u32 {
        match self {
            Self::Side { base, shift } => (i32::from(base) + (byte >> shift) as i32) as u32 & 31,
            Self::Several | Self::Unknown => 32,
        }
    }
}

/// An access, remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Who: see [`super::site::Source`].
    pub(crate) source: u32,
    pub(crate) block: u32,
    pub(crate) clock: u32,
    pub(crate) site: u32,
    pub(crate) warp: u8,
    pub(crate) lanes: Lanes,
    pub(crate) writes: bool,
    pub(crate) strong: bool,
    mask: [u64; 2],
}

impl Note {
    #[allow(clippy::too_many_arguments, reason = "one per field")]
    pub(crate) fn new(
        source: u32,
        (block, warp, clock): (u32, u32, u32),
        site: u32,
        lanes: Lanes,
        (writes, strong): (bool, bool),
        mask: u128,
    ) -> Self {
        let mask = [mask as u64, (mask >> 64) as u64];
        Self { source, block, clock, site, warp: warp as u8, lanes, writes, strong, mask }
    }

    #[inline(always)]
    fn same_access(&self, other: &Self) -> bool {
        (self.clock, self.site, self.block, self.source) == (other.clock, other.site, other.block, other.source)
            && (self.warp, self.lanes, self.writes, self.strong)
                == (other.warp, other.lanes, other.writes, other.strong)
    }
}

/// How a note stands to an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It happened before.
    Before,
    /// By the same warp; its lanes decide.
    SameWarp,
    /// Not ordered.
    Apart,
}

/// A conflict that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conflict {
    pub(crate) other: Note,
    pub(crate) same_warp: bool,
    /// The bytes of the line that both accessed.
    pub(crate) mask: u128,
    /// One of them that shows the conflict.
    pub(crate) byte: u32,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    first: Option<Note>,
    more: Vec<Note>,
    crowd: Option<Box<Crowd>>,
    /// Bytes that there are notes of behind those of `past`, and perhaps more.
    noted: [u64; 2],
    /// So many of `more`, its first, are of launches and copies that were over when those of the others began.
    past: u16,
    /// The one that all of those are of, or 0.
    past_source: u32,
    /// The bytes that nobody has written since: what those notes say of others does not matter any more.
    past_live: [u64; 2],
}

fn both(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    [a[0] & b[0], a[1] & b[1]]
}

fn either(a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
    [a[0] | b[0], a[1] | b[1]]
}

/// A line that so many warps of a launch have read, and nobody has written, that further readers change nothing.
#[derive(Clone, Debug)]
struct Crowd {
    source: u32,
    /// Blocks of the readers: a bit each, of their number's lowest bits.
    blocks: u64,
    /// The bytes that all of them have read.
    mask: [u64; 2],
}

impl Crowd {
    fn of(notes: impl Iterator<Item = Note>) -> Option<Self> {
        let mut crowd: Option<Self> = None;
        for note in notes {
            let mine = crowd.get_or_insert(Self { source: note.source, blocks: 0, mask: [u64::MAX; 2] });
            if note.writes || note.source != mine.source {
                return None;
            }
            mine.blocks |= 1 << (note.block % 64);
            mine.mask = [mine.mask[0] & note.mask[0], mine.mask[1] & note.mask[1]];
        }
        crowd
    }

    /// Whether a read by a block that has seen nothing of others needs no looking at.
    #[inline]
    fn covers(&self, note: &Note) -> bool {
        note.source == self.source
            && self.blocks >> (note.block % 64) & 1 == 0
            && (note.mask[0] & !self.mask[0] | note.mask[1] & !self.mask[1]) == 0
    }
}

impl Line {
    pub(crate) fn forget(&mut self, mask: u128) {
        self.cut(mask, |_| true);
    }

    fn cut(&mut self, mask: u128, which: impl Fn(&Note) -> bool) {
        self.crowd = None;
        let keep = [!mask as u64, !(mask >> 64) as u64];
        if let Some(note) = &mut self.first
            && which(note)
        {
            note.mask = [note.mask[0] & keep[0], note.mask[1] & keep[1]];
            if note.mask == [0, 0] {
                self.first = None;
            }
        }
        if !self.more.is_empty() {
            let (mut seen, mut past) = (0, 0);
            self.more.retain_mut(|note| {
                if which(note) {
                    note.mask = [note.mask[0] & keep[0], note.mask[1] & keep[1]];
                }
                let stays = note.mask != [0, 0];
                past += u16::from(stays && seen < self.past);
                seen += 1;
                stays
            });
            self.past = past;
        }
        let (past, others) = self.more.split_at(self.past.into());
        self.noted = self.first.iter().chain(others).fold([0, 0], |all, note| either(all, note.mask));
        self.past_live = both(self.past_live, past.iter().fold([0, 0], |all, note| either(all, note.mask)));
    }

    /// Puts notes of launches and copies that are over together: one for each instruction, by whichever blocks and lanes.
    #[cold]
    fn put_together(&mut self, source: u32, mut relation: impl FnMut(&Note) -> Relation) {
        let mut others = Vec::new();
        // Those that are over are gathered at the front, where there is always room for one more than has been seen.
        let (mut notes, mut past) = (std::mem::take(&mut self.more), 0);
        notes.extend(self.first.take());
        for at in 0..notes.len() {
            let mut note = notes[at];
            if at < usize::from(self.past) {
                note.mask = both(note.mask, self.past_live);
                if note.mask == [0, 0] {
                    continue;
                }
            }
            if note.source == source || relation(&note) != Relation::Before {
                others.push(note);
                continue;
            }
            let alike = |old: &&mut Note| {
                (old.source, old.site, old.writes, old.strong) == (note.source, note.site, note.writes, note.strong)
            };
            match notes[..past].iter_mut().find(alike) {
                Some(old) => {
                    old.lanes = if old.same_access(&note) { old.lanes } else { Lanes::Unknown };
                    old.mask = either(old.mask, note.mask);
                    old.block = if old.block == note.block { old.block } else { SEVERAL_BLOCKS };
                }
                None => {
                    notes[past] = note;
                    past += 1;
                }
            }
        }
        notes.truncate(past);
        self.past = past.min(usize::from(u16::MAX)) as u16;
        let one = notes.first().map_or(0, |note| note.source);
        self.past_source = if notes.iter().all(|note| note.source == one) { one } else { 0 };
        self.past_live = notes.iter().fold([0, 0], |all, note| either(all, note.mask));
        let mut others = others.into_iter();
        self.first = others.next();
        notes.extend(others);
        self.more = notes;
        self.cut(0, |_| true);
    }

    /// What an access conflicts with among the notes of `past`.
    fn look_at_past(
        &mut self,
        note: &Note,
        mut relation: impl FnMut(&Note) -> Relation,
        mut conflict: impl FnMut(Conflict),
    ) {
        if self.past_source != 0 && relation(&Note { source: self.past_source, ..*note }) == Relation::Before {
            if note.writes {
                self.past_live = both(self.past_live, note.mask.map(|mask| !mask));
            }
            return;
        }
        let live = self.past_live;
        for old in &mut self.more[..self.past.into()] {
            let both = both(both(old.mask, live), note.mask);
            if both == [0, 0] {
                continue;
            }
            let before = relation(old) == Relation::Before;
            if (old.writes || note.writes) && !(old.strong && note.strong) && !before {
                let mask = u128::from(both[0]) | u128::from(both[1]) << 64;
                conflict(Conflict { other: *old, same_warp: false, mask, byte: mask.trailing_zeros() });
            }
        }
        if note.writes {
            self.past_live = both(live, note.mask.map(|mask| !mask));
        }
    }

    /// Notes an access and says what it conflicts with. `relation` orders notes of other warps; `clock`: of a warp's
    /// own accesses, to tell its lanes apart.
    #[inline]
    pub(crate) fn access(
        &mut self,
        note: &Note,
        clock: Option<&WarpClock>,
        mut relation: impl FnMut(&Note) -> Relation,
        mut conflict: impl FnMut(Conflict),
    ) {
        if let Some(crowd) = &self.crowd {
            if !note.writes && crowd.covers(note) && clock.is_some_and(WarpClock::is_alone) {
                return;
            }
            self.crowd = None;
        }
        if self.more.len() >= CROWDED && self.first.as_ref().is_some_and(|first| first.source != note.source) {
            self.put_together(note.source, &mut relation);
        }
        if both(self.past_live, note.mask) != [0, 0] {
            self.look_at_past(note, &mut relation, &mut conflict);
        }
        let past = usize::from(self.past);
        let fresh = both(self.noted, note.mask) == [0, 0];
        if fresh {
            self.noted = [self.noted[0] | note.mask[0], self.noted[1] | note.mask[1]];
            // Nobody has accessed these bytes. The latest note may be of this very instruction.
            match (&mut self.first, self.more[past..].last_mut()) {
                (first @ None, _) => *first = Some(*note),
                (_, Some(old)) | (Some(old), None) if old.same_access(note) => {
                    old.mask = [old.mask[0] | note.mask[0], old.mask[1] | note.mask[1]];
                }
                _ => self.more.push(*note),
            }
            return;
        }
        let mut merged = false;
        let mut emptied = false;
        let mut readers = 0;
        for old in self.first.iter_mut().chain(&mut self.more[past..]) {
            readers += usize::from(!old.writes);
            if old.same_access(note) {
                old.mask = [old.mask[0] | note.mask[0], old.mask[1] | note.mask[1]];
                merged = true;
                continue;
            }
            let both = [old.mask[0] & note.mask[0], old.mask[1] & note.mask[1]];
            if both == [0, 0] {
                continue;
            }
            let relation = relation(old);
            if (old.writes || note.writes) && !(old.strong && note.strong) && relation != Relation::Before {
                let mask = u128::from(both[0]) | u128::from(both[1]) << 64;
                if relation == Relation::Apart {
                    conflict(Conflict { other: *old, same_warp: false, mask, byte: mask.trailing_zeros() });
                } else if let Some(clock) = clock
                    && let Some(byte) = lanes_apart(old, note, mask, clock)
                {
                    conflict(Conflict { other: *old, same_warp: true, mask, byte });
                }
            }
            // A write makes what came before it irrelevant; so does a read for reads before it, if by the same lanes.
            let other_lanes = relation == Relation::SameWarp && old.lanes != note.lanes;
            if note.writes || !old.writes && relation != Relation::Apart && !other_lanes {
                old.mask = [old.mask[0] & !note.mask[0], old.mask[1] & !note.mask[1]];
                emptied |= old.mask == [0, 0];
            }
        }
        if emptied {
            self.cut(0, |_| true);
        }
        self.noted = [self.noted[0] | note.mask[0], self.noted[1] | note.mask[1]];
        if !merged && (note.writes || readers < READERS) {
            match &mut self.first {
                first @ None => *first = Some(*note),
                Some(_) => self.more.push(*note),
            }
        } else if !merged {
            // As many as are remembered: which bytes they have read does not matter any more.
            self.crowd = Crowd::of(self.first.iter().chain(&self.more[past..]).copied()).map(Box::new);
        }
    }
}

/// A byte that two accesses of a warp touch with lanes that are not ordered.
fn lanes_apart(old: &Note, new: &Note, overlap: u128, clock: &WarpClock) -> Option<u32> {
    let met = !old.writes;
    match (old.lanes, new.lanes) {
        (Lanes::Unknown, _) | (_, Lanes::Unknown) => return None,
        // Who of several lanes wrote is not known; that another lane has read is.
        (Lanes::Several, _) if old.writes => return None,
        (Lanes::Several, _) | (_, Lanes::Several) => {
            return (!clock.any_lane_ordered(old.clock, met)).then(|| overlap.trailing_zeros());
        }
        _ => {}
    }
    if old.lanes == new.lanes {
        return None;
    }
    let mut left = overlap;
    while left != 0 {
        let byte = left.trailing_zeros();
        left &= left - 1;
        if !clock.lanes_ordered(old.lanes.of(byte), new.lanes.of(byte), old.clock, met) {
            return Some(byte);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write of word `word` of the line by lane 0 of warp 0 of a block.
    fn write(source: u32, block: u32, word: u32) -> Note {
        let lanes = Lanes::Side { base: -(word as i8), shift: 2 };
        Note::new(source, (block, 0, 1), 7, lanes, (true, false), super::super::pages::range_mask(4 * word, 4))
    }

    /// Writes, and says which notes that conflicts with. `over`: sources that were over when this one began.
    fn access(line: &mut Line, note: Note, over: &[u32]) -> Vec<(u32, u32, u32)> {
        let mut found = Vec::new();
        let relation = |old: &Note| match old.source {
            source if over.contains(&source) => Relation::Before,
            source if source == note.source && old.block == note.block => Relation::SameWarp,
            _ => Relation::Apart,
        };
        line.access(&note, None, relation, |conflict| {
            found.push((conflict.other.source, conflict.other.block, conflict.byte));
        });
        found
    }

    #[test]
    fn what_many_blocks_of_a_launch_that_is_over_have_done_is_remembered_together() {
        let mut line = Line::default();
        for word in 0..32 {
            assert!(access(&mut line, write(1, word, word), &[]).is_empty());
        }
        // The next launch writes half of the line again.
        for word in 0..16 {
            assert!(access(&mut line, write(2, word, word), &[1]).is_empty());
        }
        assert_eq!(line.past, 1);
        // Two of its blocks write the same place.
        assert_eq!(access(&mut line, write(2, 9, 5), &[1]), [(2, 5, 20)]);
        // A third one is ordered with neither: it meets the second where that has written, the first elsewhere.
        assert_eq!(access(&mut line, write(3, 0, 3), &[]), [(2, 3, 12)]);
        assert_eq!(access(&mut line, write(3, 0, 20), &[]), [(1, SEVERAL_BLOCKS, 80)]);
    }

    #[test]
    fn bytes_that_are_forgotten_are_forgotten_of_all() {
        let mut line = Line::default();
        for word in 0..32 {
            access(&mut line, write(1, word, word), &[]);
        }
        access(&mut line, write(2, 0, 0), &[1]);
        line.forget(u128::MAX);
        assert_eq!((line.past, line.noted), (0, [0, 0]));
        for word in 0..32 {
            assert!(access(&mut line, write(3, 0, word), &[]).is_empty());
        }
    }
}
