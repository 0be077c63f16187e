//! The shadow of a block's shared memory: for each word who wrote it last, who has read it since, and which of its bytes
//! have ever been written.
//!
//! A shadow word packs an access: the clock and number of the warp, the instruction, the lane, the bytes. Every warp has a
//! row of its own for its reads, so that no reader is ever forgotten; `readers` tells which rows are worth looking at.

use super::clock::{CLOCK_LIMIT, WarpClock};

const CLOCK: u32 = 40;
const WARP: u32 = 35;
const SITE: u32 = 15;
const LANE: u32 = 10;
const BYTES: u32 = 6;
/// A strong or atomic access.
const STRONG: u64 = 1;
/// More than one lane has accessed the word.
const SEVERAL: u64 = 2;
/// Lanes of 2 bytes (or, with both bits, of 1) lie side by side in the word; `LANE` is the one at its first byte.
const HALVES: u64 = 4;
const QUARTERS: u64 = 8;
/// A warp-wide instruction: all lanes have met when it is done.
const COLLECTIVE: u64 = 16;
/// By an asynchronous copy that has not been waited for. The clock is above all others.
const ASYNC: u64 = 32;
/// Sites that fit.
const SITES: u32 = (1 << 20) - 1;

/// An access to the words of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedAccess {
    pub(crate) warp: u32,
    pub(crate) lane: u32,
    pub(crate) site: u32,
    pub(crate) address: u32,
    pub(crate) bytes: u32,
    pub(crate) strong: bool,
    pub(crate) collective: bool,
}

/// Something wrong about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) what: Wrong,
    pub(crate) address: u32,
    pub(crate) lane: u32,
    /// The other access.
    pub(crate) other: Packed,
    /// The other access is a write.
    pub(crate) other_writes: bool,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// Bytes nobody has written.
    Uninitialised,
    /// Unordered accesses of two warps.
    Race,
    /// Unordered accesses of two lanes of a warp.
    LaneRace,
    /// Bytes of a copy that has not been waited for.
    Copying,
}

/// An access, as packed into a shadow word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(u64);

impl Packed {
    fn new(access: &SharedAccess, clock: u32) -> Self {
        let mut bits = u64::from(clock) << CLOCK
            | u64::from(access.warp) << WARP
            | u64::from(access.site.min(SITES)) << SITE
            | u64::from(access.lane) << LANE;
        bits |= match access.bytes {
            1 => HALVES | QUARTERS,
            2 => HALVES,
            _ => 0,
        };
        bits |= if access.strong { STRONG } else { 0 };
        bits |= if access.collective { COLLECTIVE } else { 0 };
        Self(bits)
    }

    fn clock(self) -> u32 {
        (self.0 >> CLOCK) as u32
    }

    pub(crate) fn warp(self) -> u32 {
        (self.0 >> WARP) as u32 & 31
    }

    pub(crate) fn site(self) -> u32 {
        (self.0 >> SITE) as u32 & SITES
    }

    fn bytes(self) -> u32 {
        (self.0 >> BYTES) as u32 & 15
    }

    /// The lane that accessed a byte of the word.
    pub(crate) fn lane(self, byte: u32) -> u32 {
        let first = (self.0 >> LANE) as u32;
        (first + self.step(byte)) & 31
    }

    fn step(self, byte: u32) -> u32 {
        match self.0 & (HALVES | QUARTERS) {
            HALVES => byte / 2,
            0 => 0,
            _ => byte,
        }
    }

    fn is_atomic(self) -> bool {
        self.has(STRONG) && self.has(COLLECTIVE)
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// For bytes of one word: the access with the lane moved to where its word begins.
    fn at(self, byte: u32, bytes: u32) -> Self {
        let lane = ((self.0 >> LANE) as u32).wrapping_sub(self.step(byte)) & 31;
        Self(self.0 & !(31 << LANE) & !(15 << BYTES) | u64::from(lane) << LANE | u64::from(bytes) << BYTES)
    }

    /// What is kept when `self` comes after `old` in the same row.
    fn after(self, old: Self) -> Self {
        const WHERE: u64 = (31 << LANE) | (15 << BYTES) | (HALVES | QUARTERS) | SEVERAL;
        if (self.0 ^ old.0) & !WHERE & !(u64::from(SITES) << SITE) != 0 {
            return self;
        }
        // The same warp between two synchronisations.
        let overlap = old.bytes() & self.bytes() != 0;
        let pattern = (31 << LANE) | (HALVES | QUARTERS);
        let mut merged = self.0 | old.0 & (15 << BYTES);
        if old.has(SEVERAL) || (self.0 ^ old.0) & pattern != 0 && (overlap || self.bytes() != 15) {
            merged |= SEVERAL;
        }
        Self(merged)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SharedShadow {
    write: Vec<u64>,
    readers: Vec<u32>,
    rows: Vec<Vec<u64>>,
    /// Bytes of each word that have been written.
    written: Vec<u8>,
    /// Words that copies have been started to, less those that were waited for.
    copying: u64,
    /// Clocks of this use of the shadow start here.
    pub(crate) start: u32,
    /// The highest clock so far.
    pub(crate) newest: u32,
}

impl SharedShadow {
    /// For a new block. What an earlier block has left lies below all clocks of this one.
    pub(crate) fn begin(&mut self, warps: usize) {
        if self.newest > CLOCK_LIMIT / 2 {
            *self = Self::default();
        }
        self.start = self.newest + 2;
        self.newest = self.start;
        self.readers.fill(0);
        self.written.fill(0);
        if self.copying > 0 {
            // Copies that nobody waited for are above all clocks.
            self.write.fill(0);
            self.copying = 0;
        }
        if self.rows.len() < warps {
            self.rows.resize(warps, Vec::new());
        }
    }

    /// Makes room for the words below `bytes`.
    pub(crate) fn reserve(&mut self, bytes: u64) {
        // More than any card has; what lies beyond has been refused by the machine.
        const LARGEST: u64 = 1 << 22;
        let words = bytes.min(LARGEST).div_ceil(4) as usize;
        if words > self.write.len() {
            let words = words.next_power_of_two();
            self.write.resize(words, 0);
            self.readers.resize(words, 0);
            self.written.resize(words, 0);
        }
    }

    fn bytes_of(access: &SharedAccess, word: u32) -> u32 {
        if access.bytes >= 4 { 15 } else { ((1 << access.bytes) - 1) << (access.address - word * 4).min(3) & 15 }
    }

    fn words(access: &SharedAccess) -> std::ops::Range<usize> {
        let last = access.address.saturating_add(access.bytes.max(1) - 1) / 4;
        (access.address / 4) as usize..last as usize + 1
    }

    /// A read of one lane. What is wrong goes to `hits`.
    #[inline]
    pub(crate) fn read(&mut self, clock: &WarpClock, access: &SharedAccess, hits: &mut Vec<Hit>) {
        self.grow_row(access.warp);
        let mine = Packed::new(access, clock.now);
        let bit = 1 << access.warp;
        for word in Self::words(access) {
            let Some(&old) = self.write.get(word) else { return };
            let old = Packed(old);
            let bytes = Self::bytes_of(access, word as u32);
            let mine = mine.at(bytes.trailing_zeros(), bytes);
            if old.clock() > clock.bound[old.warp() as usize] {
                judge(clock, access, word as u32, mine, old, true, hits);
            }
            self.check_written(access, word, bytes, old, hits);
            if old.has(STRONG) && !access.strong {
                self.check_atomics(clock, access, word, mine, hits);
            }
            let row = &mut self.rows[access.warp as usize];
            row[word] = mine.after(Packed(row[word])).0;
            self.readers[word] |= bit;
        }
    }

    #[inline]
    fn grow_row(&mut self, warp: u32) {
        let row = &mut self.rows[warp as usize];
        if row.len() < self.write.len() {
            row.resize(self.write.len(), 0);
        }
    }

    #[inline]
    fn check_written(&self, access: &SharedAccess, word: usize, bytes: u32, old: Packed, hits: &mut Vec<Hit>) {
        let missing = bytes & !u32::from(self.written[word]);
        if missing != 0 && !old.has(ASYNC) {
            let address = word as u32 * 4 + missing.trailing_zeros();
            hits.push(Hit {
                what: Wrong::Uninitialised,
                address,
                lane: access.lane,
                other: Packed(0),
                other_writes: false,
            });
        }
    }

    /// Atomics of other warps before the last one: a plain read must be ordered behind all of them.
    #[cold]
    fn check_atomics(&self, clock: &WarpClock, access: &SharedAccess, word: usize, mine: Packed, hits: &mut Vec<Hit>) {
        let mut readers = self.readers[word] & !(1 << access.warp);
        while readers != 0 {
            let warp = readers.trailing_zeros();
            readers &= readers - 1;
            let old = Packed(self.rows[warp as usize].get(word).copied().unwrap_or(0));
            if old.is_atomic() && old.clock() > clock.bound[warp as usize] {
                judge(clock, access, word as u32, mine, old, true, hits);
            }
        }
    }

    #[inline]
    fn check_write(&self, clock: &WarpClock, access: &SharedAccess, word: usize, mine: Packed, hits: &mut Vec<Hit>) {
        let old = Packed(self.write[word]);
        if old.clock() > clock.bound[old.warp() as usize] {
            judge(clock, access, word as u32, mine, old, true, hits);
        }
        let mut readers = self.readers[word];
        while readers != 0 {
            let warp = readers.trailing_zeros();
            readers &= readers - 1;
            let old = Packed(self.rows[warp as usize].get(word).copied().unwrap_or(0));
            if old.clock() > clock.bound[warp as usize] {
                judge(clock, access, word as u32, mine, old, false, hits);
            }
        }
    }

    /// A write of one lane; `reads`: an atomic.
    #[inline]
    pub(crate) fn write(&mut self, clock: &WarpClock, access: &SharedAccess, reads: bool, hits: &mut Vec<Hit>) {
        let mine = Packed::new(access, clock.now);
        for word in Self::words(access) {
            let Some(&old) = self.write.get(word) else { return };
            let old = Packed(old);
            let bytes = Self::bytes_of(access, word as u32);
            let mine = mine.at(bytes.trailing_zeros(), bytes);
            self.check_write(clock, access, word, mine, hits);
            if reads {
                self.check_written(access, word, bytes, old, hits);
                self.grow_row(access.warp);
                self.rows[access.warp as usize][word] = mine.0 | COLLECTIVE;
                self.readers[word] |= 1 << access.warp;
            } else if bytes == 15 {
                self.readers[word] = 0;
            }
            self.write[word] = mine.after(old).0;
            self.written[word] |= bytes as u8;
        }
    }

    /// A lane starts an asynchronous copy to its words: until [`Self::landed`], nobody may touch them.
    pub(crate) fn copying(&mut self, clock: &WarpClock, access: &SharedAccess, hits: &mut Vec<Hit>) {
        let mine = Packed::new(access, clock.now);
        for word in Self::words(access) {
            if word >= self.write.len() {
                return;
            }
            let bytes = Self::bytes_of(access, word as u32);
            let mine = mine.at(bytes.trailing_zeros(), bytes);
            self.check_write(clock, access, word, mine, hits);
            self.write[word] = mine.0 | ASYNC | u64::from(u32::MAX >> 8) << CLOCK;
            self.written[word] |= bytes as u8;
            self.readers[word] = 0;
            self.copying += 1;
        }
    }

    /// The copy has been waited for: it counts as a write of the lane that started it, at `clock` of its warp.
    pub(crate) fn landed(&mut self, clock: u32, access: &SharedAccess) {
        let mine = Packed::new(access, clock);
        for word in Self::words(access) {
            let Some(entry) = self.write.get_mut(word) else { return };
            let old = Packed(*entry);
            if old.has(ASYNC) && old.warp() == access.warp && old.site() == mine.site() {
                let bytes = Self::bytes_of(access, word as u32);
                *entry = mine.at(bytes.trailing_zeros(), bytes).0;
                self.copying -= 1;
            }
        }
    }
}

/// Two accesses to a word, not known to be ordered: whether that is wrong.
#[cold]
fn judge(
    clock: &WarpClock,
    access: &SharedAccess,
    word: u32,
    mine: Packed,
    old: Packed,
    old_writes: bool,
    hits: &mut Vec<Hit>,
) {
    let overlap = mine.bytes() & old.bytes();
    if overlap == 0 || mine.has(STRONG) && old.has(STRONG) {
        return;
    }
    let mut hit = |what, byte: u32| {
        let address = word * 4 + byte;
        hits.push(Hit { what, address, lane: access.lane, other: old, other_writes: old_writes });
    };
    let byte = overlap.trailing_zeros();
    if old.has(ASYNC) {
        hit(Wrong::Copying, byte);
    } else if old.warp() != access.warp {
        hit(Wrong::Race, byte);
    } else if old.has(SEVERAL) {
        // Several lanes have read it, so another has; who of several has written it is not known.
        if !old_writes && !clock.any_lane_ordered(old.clock(), true) {
            hit(Wrong::LaneRace, byte);
        }
    } else if old_writes || !old.has(COLLECTIVE) {
        let met = !old_writes;
        let apart = |byte: &u32| {
            overlap >> byte & 1 != 0 && !clock.lanes_ordered(old.lane(*byte), access.lane, old.clock(), met)
        };
        if let Some(byte) = (0..4).find(apart) {
            hit(Wrong::LaneRace, byte);
        }
    }
}
