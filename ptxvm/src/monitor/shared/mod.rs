//! The shadow of a block's shared memory: for each word who wrote it last, who has read it since, and which of its bytes
//! have ever been written.
//!
//! A shadow word packs an access: the clock and number of the warp, the instruction, the lane, the bytes. Every warp has a
//! row of its own for its reads, so that no reader is ever forgotten; `readers` tells which rows are worth looking at, and
//! `weak` and `strong` mostly that none is.

mod apart;
mod packed;
mod sweep;
#[cfg(test)]
mod tests;

pub(crate) use packed::Packed;

use super::clock::{CLOCK_LIMIT, WarpClock};
use packed::{ASYNC, CLOCK, COLLECTIVE, OWN, SEVERAL, STRONG};

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

/// What an access does to its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Read,
    Write,
    /// Reads and writes at once.
    Atomic,
    /// Starts an asynchronous copy to them: until [`SharedShadow::landed`], nobody may touch them.
    Copy,
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

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SharedShadow {
    write: Vec<u64>,
    /// Warps that have read a word since it was last written whole.
    readers: Vec<u32>,
    /// The newest clock of a weak read of a word.
    weak: Vec<u32>,
    /// The newest clock of a strong read or an atomic.
    strong: Vec<u32>,
    rows: Vec<Vec<u64>>,
    /// Bytes of each word that have been written.
    written: Vec<u8>,
    /// The block has accessed parts of words.
    parts: bool,
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
        self.parts = false;
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
            self.weak.resize(words, 0);
            self.strong.resize(words, 0);
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

    #[inline]
    fn grow_row(&mut self, warp: u32) {
        let row = &mut self.rows[warp as usize];
        if row.len() < self.write.len() {
            row.resize(self.write.len(), 0);
        }
    }

    /// An access of one lane. What is wrong goes to `hits`.
    fn one(&mut self, clock: &WarpClock, access: &SharedAccess, how: How, hits: &mut Vec<Hit>) {
        let whole = Packed::new(access, clock.now);
        for word in Self::words(access) {
            if word >= self.write.len() {
                return;
            }
            let bytes = Self::bytes_of(access, word as u32);
            let mine = whole.over(bytes);
            match how {
                How::Read => self.read(clock, access, word, mine, hits),
                _ => self.write(clock, access, word, mine, how, hits),
            }
        }
    }

    #[inline]
    fn read(&mut self, clock: &WarpClock, access: &SharedAccess, word: usize, mine: Packed, hits: &mut Vec<Hit>) {
        let old = Packed(self.write[word]);
        let seen = old.clock() <= clock.bound[old.warp() as usize];
        if !seen && (old.0 ^ mine.0) & OWN != 0 {
            judge(clock, access, word as u32, mine, old, true, hits);
        }
        self.check_written(access, word, mine.bytes(), old, hits);
        if old.has(STRONG) && !access.strong && self.strong[word] > clock.floor {
            self.check_atomics(clock, access, word, mine, hits);
        }
        let newest = if access.strong { &mut self.strong[word] } else { &mut self.weak[word] };
        *newest = clock.now.max(*newest);
        let row = &mut self.rows[access.warp as usize];
        row[word] = mine.after(Packed(row[word])).0;
        self.readers[word] |= 1 << access.warp;
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

    /// Whether a write of these lanes is ordered behind all reads of the word; false: it has to be looked at.
    #[inline]
    fn reads_seen(&self, clock: &WarpClock, warp: u32, word: usize, mine: Packed) -> bool {
        let strong = mine.has(STRONG) || self.strong[word] <= clock.floor;
        if strong && self.weak[word] <= clock.floor {
            return true;
        }
        let own = self.rows[warp as usize].get(word).is_some_and(|row| (row ^ mine.0) & OWN == 0);
        match self.readers[word] {
            0 => true,
            readers => readers == 1 << warp && own,
        }
    }

    #[cold]
    fn check_reads(&self, clock: &WarpClock, access: &SharedAccess, word: usize, mine: Packed, hits: &mut Vec<Hit>) {
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

    #[inline]
    fn write(
        &mut self,
        clock: &WarpClock,
        access: &SharedAccess,
        word: usize,
        mine: Packed,
        how: How,
        hits: &mut Vec<Hit>,
    ) {
        let old = Packed(self.write[word]);
        let seen = old.clock() <= clock.bound[old.warp() as usize];
        let harmless = (old.0 ^ mine.0) & OWN == 0 || mine.has(STRONG) && old.has(STRONG) && !old.has(ASYNC);
        if !seen && !harmless {
            judge(clock, access, word as u32, mine, old, true, hits);
        }
        if !self.reads_seen(clock, access.warp, word, mine) {
            self.check_reads(clock, access, word, mine, hits);
        }
        let bytes = mine.bytes();
        let bit = 1 << access.warp;
        match how {
            How::Atomic => {
                self.check_written(access, word, bytes, old, hits);
                self.rows[access.warp as usize][word] = mine.0 | COLLECTIVE;
                self.readers[word] |= bit;
                self.strong[word] = clock.now.max(self.strong[word]);
            }
            _ if bytes == 15 || how == How::Copy => self.readers[word] = 0,
            _ => {}
        }
        self.written[word] |= bytes as u8;
        self.write[word] = if how == How::Copy {
            self.copying += 1;
            in_flight(mine.0)
        } else {
            mine.after(old).0
        };
    }

    /// The copy has been waited for: it counts as a write of the lane that started it, at `clock` of its warp.
    pub(crate) fn landed(&mut self, clock: u32, access: &SharedAccess) {
        let mine = Packed::new(access, clock);
        let range = Self::words(access);
        let first = range.start as u32;
        let Some(entries) = self.write.get_mut(range) else { return };
        for (word, entry) in entries.iter_mut().enumerate() {
            let old = Packed(*entry);
            if old.has(ASYNC) && old.warp() == access.warp && old.site() == mine.site() {
                let bytes = Self::bytes_of(access, first + word as u32);
                *entry = mine.over(bytes).0;
                self.copying -= 1;
            }
        }
    }
}

/// A write, as it is until its copy has been waited for.
#[inline]
fn in_flight(mine: u64) -> u64 {
    mine | ASYNC | u64::from(u32::MAX >> 8) << CLOCK
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
