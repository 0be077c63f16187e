//! Accesses of lanes that lie apart: all words of all lanes in loops that decide nothing, and lane by lane only where something
//! is not plainly in order.

use super::{
    How, SharedAccess, SharedShadow, in_flight,
    packed::{ASYNC, BYTES, CLOCK, COLLECTIVE, LANE, OWN, PATTERN, Packed, SEVERAL, STRONG},
    sweep::KEY,
};
use crate::{
    machine::op::{Tier, tier},
    monitor::clock::WarpClock,
};

/// The lanes of an access: `WORDS` words each.
struct Lanes<'a, const WORDS: usize> {
    mask: u32,
    addresses: &'a [u64; 32],
    /// The access of lane 0, of no bytes yet.
    first: Packed,
    bytes: u32,
}

impl<const WORDS: usize> Lanes<'_, WORDS> {
    /// Takes the lowest lane off `left`: its first word and its access. (No closure for each lane: that would be a function of
    /// its own, without the instruction set.)
    #[inline(always)]
    fn next(&self, left: &mut u32) -> (usize, Packed) {
        let lane = left.trailing_zeros() & 31;
        *left &= *left - 1;
        let address = self.addresses[lane as usize];
        let whole = Packed(self.first.0 | u64::from(lane) << LANE);
        let mine = if self.bytes >= 4 {
            Packed(whole.0 | 15 << BYTES)
        } else {
            let byte = address as u32 & 3;
            whole.over(((1 << self.bytes) - 1) << byte & 15)
        };
        ((address / 4) as usize, mine)
    }
}

/// Whether an access to a word comes after `old`, or is by the same lanes.
#[inline(always)]
fn follows(clock: &WarpClock, mine: Packed, old: Packed) -> bool {
    (old.clock() <= clock.bound[old.warp() as usize]) | ((old.0 ^ mine.0) & OWN == 0)
}

/// What many words have in common, looked at without a branch so that it is done in vectors.
struct Look {
    /// Everything up to this clock is long ordered.
    limit: u64,
    /// The sign bit: some entry is neither long ordered nor by the same lanes.
    bad: u64,
    flags: u64,
    written: u8,
}

impl Look {
    fn new(clock: &WarpClock) -> Self {
        Self { limit: u64::from(clock.floor) << CLOCK | ((1 << CLOCK) - 1), bad: 0, flags: 0, written: 15 }
    }

    #[inline(always)]
    fn at<const WORDS: usize>(&mut self, mine: Packed, entries: &[u64; WORDS]) {
        for &old in entries {
            // A clock in the upper half (that of a copy under way, above all) counts as late too.
            let late = old | self.limit.wrapping_sub(old);
            let foreign = (old ^ mine.0) & OWN;
            self.bad |= late & (foreign | foreign.wrapping_neg());
            self.flags |= old;
        }
    }

    fn is_fine(&self) -> bool {
        self.bad >> 63 == 0
    }
}

/// [`Packed::after`] for accesses of whole words.
#[inline(always)]
fn after_whole(mine: u64, old: u64) -> u64 {
    let several = if (mine ^ old) & PATTERN != 0 { SEVERAL } else { old & SEVERAL };
    mine | if (mine ^ old) & KEY == 0 { several } else { 0 }
}

/// The words from `first` on.
#[inline(always)]
fn words<T, const WORDS: usize>(list: &[T], first: usize) -> Option<&[T; WORDS]> {
    list.get(first..first + WORDS)?.try_into().ok()
}

#[inline(always)]
fn words_mut<T, const WORDS: usize>(list: &mut [T], first: usize) -> Option<&mut [T; WORDS]> {
    list.get_mut(first..first + WORDS)?.try_into().ok()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
fn access_wide<const WORDS: usize>(
    shadow: &mut SharedShadow,
    clock: &WarpClock,
    how: How,
    lanes: &Lanes<'_, WORDS>,
) -> bool {
    shadow.words_apart(clock, how, lanes)
}

fn access<const WORDS: usize>(
    shadow: &mut SharedShadow,
    clock: &WarpClock,
    how: How,
    lanes: &Lanes<'_, WORDS>,
) -> bool {
    #[cfg(target_arch = "x86_64")]
    if tier() != Tier::Portable {
        // SAFETY: better tiers have all of these.
        return unsafe { access_wide(shadow, clock, how, lanes) };
    }
    shadow.words_apart(clock, how, lanes)
}

impl SharedShadow {
    /// Accesses all words of all lanes, or none: then false.
    pub(super) fn access_apart(
        &mut self,
        clock: &WarpClock,
        one: &SharedAccess,
        how: How,
        (mask, addresses): (u32, &[u64; 32]),
    ) -> bool {
        if one.strong && how != How::Atomic {
            return false;
        }
        let first = Packed::new(&SharedAccess { lane: 0, ..*one }, clock.now);
        let bytes = one.bytes;
        match bytes {
            1 | 2 | 4 => access::<1>(self, clock, how, &Lanes { mask, addresses, first, bytes }),
            8 => access::<2>(self, clock, how, &Lanes { mask, addresses, first, bytes }),
            16 => access::<4>(self, clock, how, &Lanes { mask, addresses, first, bytes }),
            _ => false,
        }
    }

    #[inline(always)]
    fn words_apart<const WORDS: usize>(&mut self, clock: &WarpClock, how: How, lanes: &Lanes<'_, WORDS>) -> bool {
        match how {
            How::Read => self.read_apart(clock, lanes),
            How::Write => self.write_apart(clock, lanes, false),
            How::Copy => self.write_apart(clock, lanes, true),
            How::Atomic => self.update_apart(clock, lanes),
        }
    }

    #[inline(always)]
    fn read_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) -> bool {
        // A word of which parts were read needs a closer look.
        if lanes.bytes >= 4 && !self.parts && self.all_long_ordered(clock, lanes) {
            self.note_whole_reads(clock, lanes);
            return true;
        }
        let mut fine = true;
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            let range = word..word + WORDS;
            let (Some(entries), Some(written)) = (self.write.get(range.clone()), self.written.get(range)) else {
                fine = false;
                continue;
            };
            for k in 0..WORDS {
                let old = Packed(entries[k]);
                let atomics = old.has(STRONG) && self.strong[word + k] > clock.floor;
                fine &= follows(clock, mine, old) & !atomics & (mine.bytes() & !u32::from(written[k]) == 0);
            }
        }
        if !fine {
            return false;
        }
        let warp = lanes.first.warp();
        let row = &mut self.rows[warp as usize];
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            for word in word..word + WORDS {
                row[word] = mine.after(Packed(row[word])).0;
                self.weak[word] = clock.now.max(self.weak[word]);
                self.readers[word] |= 1 << warp;
            }
        }
        true
    }

    /// Whether all words are written whole, and plainly in order for reads of them.
    #[inline(always)]
    fn all_long_ordered<const WORDS: usize>(&self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) -> bool {
        let (mut look, mut missing) = (Look::new(clock), false);
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            match (words::<_, WORDS>(&self.write, word), words::<_, WORDS>(&self.written, word)) {
                (Some(entries), Some(written)) => {
                    look.at(mine, entries);
                    look.written &= written.iter().fold(15, |all, bytes| all & bytes);
                }
                _ => missing = true,
            }
        }
        look.is_fine() && look.flags & STRONG == 0 && look.written == 15 && !missing
    }

    #[inline(always)]
    fn note_whole_reads<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) {
        let warp = lanes.first.warp();
        let (now, bit) = (clock.now, 1 << warp);
        let row = &mut self.rows[warp as usize];
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            let (Some(row), Some(weak), Some(readers)) = (
                words_mut::<_, WORDS>(row, word),
                words_mut::<_, WORDS>(&mut self.weak, word),
                words_mut::<_, WORDS>(&mut self.readers, word),
            ) else {
                continue;
            };
            for k in 0..WORDS {
                row[k] = after_whole(mine.0, row[k]);
            }
            for k in 0..WORDS {
                weak[k] = now.max(weak[k]);
                readers[k] |= bit;
            }
        }
    }

    #[inline(always)]
    fn write_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>, copies: bool) -> bool {
        let mut fine = true;
        // What was there, to be put back. A place that two lanes write shows as one that is not in order.
        let mut saved = [(0, [0u64; WORDS]); 32];
        let mut count = 0;
        let warp = lanes.first.warp();
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            let Some(&old) = words(&self.write, word) else {
                fine = false;
                continue;
            };
            let mut look = Look::new(clock);
            look.at(mine, &old);
            let newest =
                |list| words::<u32, WORDS>(list, word).map_or(u32::MAX, |list| list.iter().fold(0, |a, b| a.max(*b)));
            if !look.is_fine() || newest(&self.weak).max(newest(&self.strong)) > clock.floor {
                for k in 0..WORDS {
                    fine &= follows(clock, mine, Packed(old[k])) & self.reads_seen(clock, warp, word + k, mine);
                }
            }
            let mut new = [in_flight(mine.0); WORDS];
            if !copies {
                for k in 0..WORDS {
                    let whole = lanes.bytes >= 4;
                    new[k] = if whole { after_whole(mine.0, old[k]) } else { mine.after(Packed(old[k])).0 };
                }
            }
            if let Some(entries) = words_mut(&mut self.write, word) {
                *entries = new;
            }
            saved[count & 31] = (word, old);
            count += 1;
        }
        if !fine {
            for (word, old) in saved[..count].iter().rev() {
                self.write[*word..word + WORDS].copy_from_slice(old);
            }
            return false;
        }
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            if lanes.bytes >= 4 {
                if let (Some(written), Some(readers)) =
                    (words_mut::<_, WORDS>(&mut self.written, word), words_mut::<_, WORDS>(&mut self.readers, word))
                {
                    (*written, *readers) = ([15; WORDS], [0; WORDS]);
                }
                continue;
            }
            self.written[word] |= mine.bytes() as u8;
        }
        if copies {
            self.copying += (count * WORDS) as u64;
        }
        true
    }

    #[inline(always)]
    fn update_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) -> bool {
        let mut fine = true;
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            let range = word..word + WORDS;
            let (Some(entries), Some(written)) = (self.write.get(range.clone()), self.written.get(range)) else {
                fine = false;
                continue;
            };
            for k in 0..WORDS {
                let old = Packed(entries[k]);
                // Atomics do not race with one another.
                let harmless = old.has(STRONG) & !old.has(ASYNC);
                fine &= (harmless | follows(clock, mine, old))
                    & (self.weak[word + k] <= clock.floor)
                    & (mine.bytes() & !u32::from(written[k]) == 0);
            }
        }
        if !fine {
            return false;
        }
        let warp = lanes.first.warp();
        let row = &mut self.rows[warp as usize];
        let mut left = lanes.mask;
        while left != 0 {
            let (word, mine) = lanes.next(&mut left);
            for word in word..word + WORDS {
                row[word] = mine.0 | COLLECTIVE;
                self.readers[word] |= 1 << warp;
                self.strong[word] = clock.now.max(self.strong[word]);
                self.write[word] = mine.after(Packed(self.write[word])).0;
            }
        }
        true
    }
}
