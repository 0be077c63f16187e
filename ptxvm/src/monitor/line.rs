//! Who has accessed the bytes of a line of global memory: one note per warp and instruction, with the bytes it concerns.
//!
//! A warp that accesses neighbouring bytes with neighbouring lanes leaves one note for all of them; only where accesses
//! overlap in part are there several.

#[cfg(test)]
mod tests;
mod words;

use super::clock::WarpClock;
pub(super) use words::WordAccess;
use words::Words;

/// Readers that are remembered per line: enough that a write which races with many readers races with one of these.
const READERS: usize = 12;

/// Notes of others from which on those that are over are put together: a line is not to be looked through note by note for
/// every launch again.
const CROWDED: usize = 8;

/// Notes of a launch from which on those of single words go into a table.
const MANY: usize = 3;

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

    /// The bytes of the line, a bit each.
    pub(crate) fn mask(&self) -> u128 {
        u128::from(self.mask[0]) | u128::from(self.mask[1]) << 64
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
    /// Notes of single words, where there are many.
    words: Option<Box<Words>>,
    crowd: Option<Box<Crowd>>,
    /// Bytes that there are notes of in `first`, `more` and `words`, and perhaps more.
    noted: [u64; 2],
    /// The launch or copy that all of those are of, or 0.
    source: u32,
    /// The one that all of `past` are of, or 0.
    past_source: u32,
    /// Notes of launches and copies that were over when those of the others began.
    past: Vec<Note>,
    /// The bytes that nobody has written since: what `past` says of others does not matter any more.
    past_live: [u64; 2],
}

/// Adds a note of a launch or copy that is over, to that of the same instruction if there is one.
fn add_alike(notes: &mut Vec<Note>, note: Note) {
    let alike = |old: &&mut Note| {
        (old.source, old.site, old.writes, old.strong) == (note.source, note.site, note.writes, note.strong)
    };
    match notes.iter_mut().find(alike) {
        Some(old) => {
            old.lanes = if old.same_access(&note) { old.lanes } else { Lanes::Unknown };
            old.mask = either(old.mask, note.mask);
            old.block = if old.block == note.block { old.block } else { SEVERAL_BLOCKS };
        }
        None => notes.push(note),
    }
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
        self.spread_words();
        let keep = [!mask as u64, !(mask >> 64) as u64];
        if let Some(note) = &mut self.first
            && which(note)
        {
            note.mask = [note.mask[0] & keep[0], note.mask[1] & keep[1]];
            if note.mask == [0, 0] {
                self.first = None;
            }
        }
        for notes in [&mut self.more, &mut self.past] {
            notes.retain_mut(|note| {
                if which(note) {
                    note.mask = [note.mask[0] & keep[0], note.mask[1] & keep[1]];
                }
                note.mask != [0, 0]
            });
        }
        self.noted = self.first.iter().chain(&self.more).fold([0, 0], |all, note| either(all, note.mask));
        self.past_live = both(self.past_live, self.past.iter().fold([0, 0], |all, note| either(all, note.mask)));
    }

    /// Puts the notes of words with the others.
    fn spread_words(&mut self) {
        if let Some(words) = &mut self.words {
            self.more.extend(words.drain());
        }
    }

    fn has_words(&self) -> bool {
        self.words.as_ref().is_some_and(|words| !words.is_empty())
    }

    /// Makes notes of launches and copies that are over those of the past.
    #[cold]
    fn turn_past(&mut self, note: &Note, mut relation: impl FnMut(&Note) -> Relation) {
        if self.past_live == [0, 0]
            && self.source != 0
            && relation(&Note { source: self.source, ..*note }) == Relation::Before
        {
            // All at once: a kernel that writes what one before it has written comes here for every line. The two lists
            // change places, so that neither is made anew.
            self.past.clear();
            std::mem::swap(&mut self.past, &mut self.more);
            self.past.extend(self.first.take());
            if let Some(words) = &mut self.words {
                words.drain_by_site(|note| self.past.push(note));
            }
            self.past_source = self.source;
            self.past_live = std::mem::take(&mut self.noted);
        } else {
            self.put_together(note.source, relation);
        }
    }

    /// Puts notes of launches and copies that are over together: one for each instruction, by whichever blocks and lanes.
    fn put_together(&mut self, source: u32, mut relation: impl FnMut(&Note) -> Relation) {
        self.spread_words();
        let live = self.past_live;
        let earlier = self.past.drain(..).map(|note| Note { mask: both(note.mask, live), ..note });
        let mut past: Vec<Note> = Vec::new();
        let mut others = Vec::new();
        for note in earlier.filter(|note| note.mask != [0, 0]).chain(self.first.take()).chain(self.more.drain(..)) {
            if note.source == source || relation(&note) != Relation::Before {
                others.push(note);
                continue;
            }
            add_alike(&mut past, note);
        }
        let one = past.first().map_or(0, |note| note.source);
        self.past_source = if past.iter().all(|note| note.source == one) { one } else { 0 };
        self.past_live = past.iter().fold([0, 0], |all, note| either(all, note.mask));
        self.past = past;
        self.noted = [0, 0];
        for note in others {
            self.noted = either(self.noted, note.mask);
            self.remember(note);
        }
    }

    /// Keeps a note of a word in the table, where there are many of a launch or the line has had many before.
    fn take_word(&mut self, note: &Note) -> bool {
        let none = self.first.is_none() && self.more.is_empty() && !self.has_words();
        let many = self.more.len() >= MANY || self.words.is_some();
        if !(none || self.source == note.source) || !many || !self.words.get_or_insert_default().take(note) {
            return false;
        }
        self.source = note.source;
        true
    }

    /// The short way of [`Self::access`] for a word, where nobody has accessed it since a launch that was over when this one
    /// began (`over`, or 0 if none is known to be): notes it in the table. False: nothing is noted.
    #[inline]
    pub(super) fn access_word(&mut self, access: &WordAccess, word: u32, lane: u32, over: u32) -> bool {
        let (half, bits) = ((word / 16) as usize & 1, 0xf << (word % 16 * 4));
        if self.noted[half] & bits != 0 {
            return false;
        }
        let past = self.past_live[half] & bits;
        if past != 0 && (over == 0 || self.past_source != over) {
            return false;
        }
        let Some(words) = &mut self.words else { return false };
        if !words.add(access, word, lane) {
            return false;
        }
        self.noted[half] |= bits;
        if access.writes {
            self.past_live[half] &= !bits;
        }
        true
    }

    /// Keeps a note.
    fn remember(&mut self, note: Note) {
        match &mut self.first {
            first @ None if self.more.is_empty() => {
                self.source = note.source;
                *first = Some(note);
            }
            first => {
                self.source = if self.source == note.source { note.source } else { 0 };
                match first {
                    None => *first = Some(note),
                    Some(_) => self.more.push(note),
                }
            }
        }
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
        for old in &self.past {
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
        let crowded = self.more.len() >= CROWDED || self.has_words();
        if crowded && self.first.as_ref().map_or(self.source, |first| first.source) != note.source {
            self.turn_past(note, &mut relation);
        }
        if both(self.past_live, note.mask) != [0, 0] {
            self.look_at_past(note, &mut relation, &mut conflict);
        }
        let fresh = both(self.noted, note.mask) == [0, 0];
        if fresh {
            self.noted = [self.noted[0] | note.mask[0], self.noted[1] | note.mask[1]];
            // Nobody has accessed these bytes. The latest note may be of this very instruction.
            if self.take_word(note) {
                return;
            }
            match (self.more.last_mut(), &mut self.first) {
                (Some(old), _) | (None, Some(old)) if old.same_access(note) => old.mask = either(old.mask, note.mask),
                _ => self.remember(*note),
            }
            return;
        }
        self.spread_words();
        let mut merged = false;
        let mut emptied = false;
        let mut readers = 0;
        for old in self.first.iter_mut().chain(&mut self.more) {
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
            self.remember(*note);
        } else if !merged {
            // As many as are remembered: which bytes they have read does not matter any more.
            self.crowd = Crowd::of(self.first.iter().chain(&self.more).copied()).map(Box::new);
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
