//! Accesses of many lanes at once: lanes side by side are looked at as vectors of words, and one by one only where
//! something is not plainly in order.

use super::{
    Hit, How, SharedAccess, SharedShadow,
    packed::{BYTES, CLOCK, HALVES, LANE, OWN, PATTERN, Packed, QUARTERS, SEVERAL, SITE, SITES, STRONG},
};
use crate::{
    machine::op::{Tier, tier},
    monitor::clock::WarpClock,
};

/// Words side by side that lanes side by side access.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    words: usize,
    /// The first word's access; lanes of the others are added to it.
    mine: u64,
    /// Base-2 logarithm of the bytes of a lane.
    shift: u32,
    warp: usize,
    now: u32,
    /// Accesses up to this clock are long ordered.
    floor: u32,
}

/// What two accesses of a warp between the same synchronisations have in common.
pub(super) const KEY: u64 = !(PATTERN | 15 << BYTES | SEVERAL | (SITES as u64) << SITE);

impl Run {
    #[inline(always)]
    fn mine(&self, word: usize) -> u64 {
        self.mine + ((((word as u32) << 2) >> self.shift) as u64) * (1 << LANE)
    }

    #[inline(always)]
    fn range(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.words
    }

    /// The sign bit says that some write is neither long ordered nor by the same lane, the lower bits which flags there are.
    #[inline(always)]
    fn look<const N: usize>(&self, from: usize, writes: &[u64; N]) -> (u64, u64) {
        let limit = u64::from(self.floor) << CLOCK | ((1 << CLOCK) - 1);
        let (mut bad, mut flags) = (0, 0);
        for (word, &old) in writes.iter().enumerate() {
            // A clock in the upper half (that of a copy under way, above all) counts as late too.
            let late = old | limit.wrapping_sub(old);
            let foreign = (old ^ self.mine(from + word)) & OWN;
            bad |= late & (foreign | foreign.wrapping_neg());
            flags |= old;
        }
        (bad, flags)
    }
}

/// Calls `f` with every four elements of a slice and where they begin, then with each that is left: loops of a known length
/// become vectors whatever the number of words.
#[inline(always)]
fn fours<T>(list: &mut [T], mut four: impl FnMut(usize, &mut [T; 4]), mut one: impl FnMut(usize, &mut [T; 1])) {
    let (chunks, rest) = list.as_chunks_mut::<4>();
    let done = chunks.len() * 4;
    for (at, chunk) in chunks.iter_mut().enumerate() {
        four(at * 4, chunk);
    }
    for (at, element) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        one(done + at, element);
    }
}

/// What [`Run::look`] says of all words.
#[inline(always)]
fn look_at_all(run: &Run, writes: &mut [u64]) -> (u64, u64) {
    let found = std::cell::Cell::new((0, 0));
    let add = |(bad, flags): (u64, u64)| found.set((found.get().0 | bad, found.get().1 | flags));
    fours(writes, |at, words| add(run.look(at, words)), |at, word| add(run.look(at, word)));
    found.get()
}

/// Whether some bytes of a word are read by a lane that has read them already and others not: [`Packed::after`] tells them apart.
#[inline(always)]
fn merges_parts(mine: u64, old: u64) -> bool {
    const WHOLE: u64 = 15 << BYTES;
    let alike = (mine ^ old) & (HALVES | QUARTERS) == 0 || old & SEVERAL != 0;
    (mine ^ old) & KEY == 0 && !(alike && old & WHOLE == WHOLE)
}

#[inline(always)]
fn note_reads<const N: usize>(run: &Run, at: usize, row: &mut [u64; N]) {
    for (word, old) in row.iter_mut().enumerate() {
        let mine = run.mine(at + word);
        let apart = if (mine ^ *old) & PATTERN != 0 { SEVERAL } else { *old & SEVERAL };
        *old = mine | if (mine ^ *old) & KEY == 0 { apart } else { 0 };
    }
}

#[inline(always)]
fn note_writes<const N: usize>(run: &Run, at: usize, entries: &mut [u64; N], copies: bool) {
    for (word, entry) in entries.iter_mut().enumerate() {
        let mine = run.mine(at + word);
        *entry = if copies { super::in_flight(mine) } else { mine };
    }
}

/// Reads all words of a run, or nothing and returns false.
#[inline(always)]
fn read_run(shadow: &mut SharedShadow, run: &Run) -> bool {
    let range = run.range();
    let (bad, flags) = look_at_all(run, &mut shadow.write[range.clone()]);
    let all = shadow.written[range.clone()].iter().fold(15, |all, written| all & written);
    if bad >> 63 != 0 || flags & STRONG != 0 || all != 15 {
        return false;
    }
    let row = &mut shadow.rows[run.warp][range.clone()];
    if shadow.parts && row.iter().enumerate().any(|(word, old)| merges_parts(run.mine(word), *old)) {
        return false;
    }
    fours(row, |at, row| note_reads(run, at, row), |at, row| note_reads(run, at, row));
    let (bit, now) = (1 << run.warp, run.now);
    let readers = &mut shadow.readers[range.clone()];
    fours(readers, |_, list| list.iter_mut().for_each(|r| *r |= bit), |_, list| list[0] |= bit);
    let weak = &mut shadow.weak[range];
    fours(weak, |_, list| list.iter_mut().for_each(|c| *c = now.max(*c)), |_, list| list[0] = now.max(list[0]));
    true
}

/// Writes all words of a run, or nothing and returns false.
#[inline(always)]
fn write_run(shadow: &mut SharedShadow, run: &Run, copies: bool) -> bool {
    let range = run.range();
    let (bad, _) = look_at_all(run, &mut shadow.write[range.clone()]);
    let newest = |list: &[u32]| list.iter().fold(0, |newest, clock| newest.max(*clock));
    let reads = newest(&shadow.weak[range.clone()]).max(newest(&shadow.strong[range.clone()]));
    if bad >> 63 != 0 || reads > run.floor {
        return false;
    }
    let entries = &mut shadow.write[range.clone()];
    fours(
        entries,
        |at, entries| note_writes(run, at, entries, copies),
        |at, entry| note_writes(run, at, entry, copies),
    );
    shadow.readers[range.clone()].fill(0);
    shadow.written[range].fill(15);
    if copies {
        shadow.copying += run.words as u64;
    }
    true
}

#[inline(always)]
fn go(shadow: &mut SharedShadow, run: &Run, how: How) -> bool {
    match how {
        How::Read => read_run(shadow, run),
        How::Write => write_run(shadow, run, false),
        How::Copy => write_run(shadow, run, true),
        How::Atomic => false,
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn go_wide(shadow: &mut SharedShadow, run: &Run, how: How) -> bool {
    go(shadow, run, how)
}

/// Lanes whose right neighbour accesses what follows, and those whose right neighbour accesses the same.
#[inline(always)]
fn compare(addresses: &[u64; 32], bytes: u64) -> (u32, u32) {
    let (mut in_a_row, mut alike) = (0, 0);
    for lane in 0..31 {
        let step = addresses[lane + 1].wrapping_sub(addresses[lane]);
        in_a_row |= u32::from(step == bytes) << lane;
        alike |= u32::from(step == 0) << lane;
    }
    (in_a_row, alike)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn compare_wide(addresses: &[u64; 32], bytes: u64) -> (u32, u32) {
    compare(addresses, bytes)
}

fn neighbours(addresses: &[u64; 32], bytes: u64) -> (u32, u32) {
    #[cfg(target_arch = "x86_64")]
    if tier() != Tier::Portable {
        // SAFETY: better tiers have AVX2.
        return unsafe { compare_wide(addresses, bytes) };
    }
    compare(addresses, bytes)
}

/// Accesses all words of a run, or none: then false.
fn access_run(shadow: &mut SharedShadow, run: &Run, how: How) -> bool {
    #[cfg(target_arch = "x86_64")]
    if tier() != Tier::Portable {
        // SAFETY: better tiers have AVX2.
        return unsafe { go_wide(shadow, run, how) };
    }
    go(shadow, run, how)
}

impl SharedShadow {
    /// An access of all lanes of `mask`; `one` is what they have in common. What is wrong goes to `hits`.
    pub(crate) fn access(
        &mut self,
        clock: &WarpClock,
        mut one: SharedAccess,
        how: How,
        (mask, addresses): (u32, &[u64; 32]),
        hits: &mut Vec<Hit>,
    ) {
        self.grow_row(one.warp);
        self.parts |= one.bytes < 4;
        let (bytes, vectors) = (u64::from(one.bytes), how != How::Atomic && !one.strong && one.bytes.is_power_of_two());
        let (in_a_row, alike) = neighbours(addresses, bytes);
        // Lanes that go with their right neighbour.
        let together = (in_a_row | if how == How::Read { alike } else { 0 }) & mask & mask >> 1;
        let apart = how == How::Atomic || 2 * together.count_ones() < mask.count_ones();
        if apart && self.access_apart(clock, &one, how, (mask, addresses)) {
            return;
        }
        let mut left = mask;
        while left != 0 {
            let first = left.trailing_zeros();
            let start = addresses[first as usize];
            // Active lanes from the first one on.
            let most = (left >> first).trailing_ones();
            let mut count = ((in_a_row >> first).trailing_ones() + 1).min(most);
            let mut lanes = count;
            if count == 1 && how == How::Read {
                lanes = ((alike >> first).trailing_ones() + 1).min(most);
            }
            left &= (u64::MAX << (first + lanes)) as u32;
            (one.lane, one.address) = (first, start as u32);
            let end = start + u64::from(count) * bytes;
            if vectors && start % 4 == 0 && end % 4 == 0 && end / 4 <= self.write.len() as u64 {
                let several = if lanes > count { SEVERAL } else { 0 };
                let run = Run {
                    first: start as usize / 4,
                    words: (end - start) as usize / 4,
                    mine: Packed::side_by_side(&one, clock.now).0 | several,
                    shift: one.bytes.trailing_zeros(),
                    warp: one.warp as usize,
                    now: clock.now,
                    floor: clock.floor,
                };
                if access_run(self, &run, how) {
                    continue;
                }
            }
            let step = if lanes > count { 0 } else { bytes };
            count = lanes;
            for lane in 0..count {
                (one.lane, one.address) = (first + lane, (start + u64::from(lane) * step) as u32);
                self.one(clock, &one, how, hits);
            }
        }
    }
}
