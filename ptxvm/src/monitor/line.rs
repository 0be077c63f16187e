//! Who has accessed the bytes of a line of global memory: one note per warp and instruction, with the bytes it concerns.
//!
//! A warp that accesses neighbouring bytes with neighbouring lanes leaves one note for all of them; only where accesses
//! overlap in part are there several.

use super::clock::WarpClock;

/// Readers that are remembered per line: enough that a write which races with many readers races with one of these.
const READERS: usize = 12;

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

    fn same_access(&self, other: &Self) -> bool {
        Self { mask: other.mask, ..*self } == *other
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
#[derive(Debug, Default)]
pub(crate) struct Line {
    first: Option<Note>,
    more: Vec<Note>,
}

impl Line {
    pub(crate) fn forget(&mut self, mask: u128) {
        self.cut(mask, |_| true);
    }

    fn cut(&mut self, mask: u128, which: impl Fn(&Note) -> bool) {
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
            self.more.retain_mut(|note| {
                if which(note) {
                    note.mask = [note.mask[0] & keep[0], note.mask[1] & keep[1]];
                }
                note.mask != [0, 0]
            });
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
        if !merged && (note.writes || readers < READERS) {
            match &mut self.first {
                first @ None => *first = Some(*note),
                Some(_) => self.more.push(*note),
            }
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
