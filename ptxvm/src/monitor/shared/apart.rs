//! Accesses of lanes that lie apart: all words of all lanes in loops that decide nothing, and lane by lane only where something
//! is not plainly in order.

use super::{
    How, SharedAccess, SharedShadow, in_flight,
    packed::{ASYNC, BYTES, COLLECTIVE, LANE, OWN, Packed, STRONG},
};
use crate::monitor::clock::WarpClock;

/// The lanes of an access: `WORDS` words each.
struct Lanes<'a, const WORDS: usize> {
    mask: u32,
    addresses: &'a [u64; 32],
    /// The access of lane 0, of no bytes yet.
    first: Packed,
    bytes: u32,
}

impl<const WORDS: usize> Lanes<'_, WORDS> {
    /// Calls `f` with the first word of each lane and the lane's access.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, Packed)) {
        let mut left = self.mask;
        while left != 0 {
            let lane = left.trailing_zeros() & 31;
            left &= left - 1;
            let address = self.addresses[lane as usize];
            let whole = Packed(self.first.0 | u64::from(lane) << LANE);
            let mine = if self.bytes >= 4 {
                Packed(whole.0 | 15 << BYTES)
            } else {
                let byte = address as u32 & 3;
                whole.at(byte, ((1 << self.bytes) - 1) << byte & 15)
            };
            f((address / 4) as usize, mine);
        }
    }
}

/// Whether an access to a word comes after `old`, or is by the same lanes.
#[inline(always)]
fn follows(clock: &WarpClock, mine: Packed, old: Packed) -> bool {
    (old.clock() <= clock.bound[old.warp() as usize]) | ((old.0 ^ mine.0) & OWN == 0)
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
            1 | 2 | 4 => self.words_apart::<1>(clock, how, &Lanes { mask, addresses, first, bytes }),
            8 => self.words_apart::<2>(clock, how, &Lanes { mask, addresses, first, bytes }),
            16 => self.words_apart::<4>(clock, how, &Lanes { mask, addresses, first, bytes }),
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

    fn read_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) -> bool {
        let mut fine = true;
        lanes.each(|word, mine| {
            let range = word..word + WORDS;
            let (Some(entries), Some(written)) = (self.write.get(range.clone()), self.written.get(range)) else {
                fine = false;
                return;
            };
            for k in 0..WORDS {
                let old = Packed(entries[k]);
                let atomics = old.has(STRONG) && self.strong[word + k] > clock.floor;
                fine &= follows(clock, mine, old) & !atomics & (mine.bytes() & !u32::from(written[k]) == 0);
            }
        });
        if !fine {
            return false;
        }
        let warp = lanes.first.warp();
        let row = &mut self.rows[warp as usize];
        lanes.each(|word, mine| {
            for word in word..word + WORDS {
                row[word] = mine.after(Packed(row[word])).0;
                self.weak[word] = clock.now.max(self.weak[word]);
                self.readers[word] |= 1 << warp;
            }
        });
        true
    }

    fn write_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>, copies: bool) -> bool {
        let mut fine = true;
        // What was there, to be put back. A place that two lanes write shows as one that is not in order.
        let mut saved = [(0, [0u64; WORDS]); 32];
        let mut count = 0;
        let warp = lanes.first.warp();
        lanes.each(|word, mine| {
            let Some(reads) = self.write.get(word..word + WORDS) else {
                fine = false;
                return;
            };
            let mut old = [0; WORDS];
            old.copy_from_slice(reads);
            for k in 0..WORDS {
                fine &= follows(clock, mine, Packed(old[k])) & self.reads_seen(clock, warp, word + k, mine);
                self.write[word + k] = if copies { in_flight(mine.0) } else { mine.after(Packed(old[k])).0 };
            }
            saved[count & 31] = (word, old);
            count += 1;
        });
        if !fine {
            for (word, old) in saved[..count].iter().rev() {
                self.write[*word..word + WORDS].copy_from_slice(old);
            }
            return false;
        }
        lanes.each(|word, mine| {
            let whole = copies || mine.bytes() == 15;
            for word in word..word + WORDS {
                self.written[word] |= mine.bytes() as u8;
                if whole {
                    self.readers[word] = 0;
                }
            }
        });
        if copies {
            self.copying += (count * WORDS) as u64;
        }
        true
    }

    fn update_apart<const WORDS: usize>(&mut self, clock: &WarpClock, lanes: &Lanes<'_, WORDS>) -> bool {
        let mut fine = true;
        lanes.each(|word, mine| {
            let range = word..word + WORDS;
            let (Some(entries), Some(written)) = (self.write.get(range.clone()), self.written.get(range)) else {
                fine = false;
                return;
            };
            for k in 0..WORDS {
                let old = Packed(entries[k]);
                // Atomics do not race with one another.
                let harmless = old.has(STRONG) & !old.has(ASYNC);
                fine &= (harmless | follows(clock, mine, old))
                    & (self.weak[word + k] <= clock.floor)
                    & (mine.bytes() & !u32::from(written[k]) == 0);
            }
        });
        if !fine {
            return false;
        }
        let warp = lanes.first.warp();
        let row = &mut self.rows[warp as usize];
        lanes.each(|word, mine| {
            for word in word..word + WORDS {
                row[word] = mine.0 | COLLECTIVE;
                self.readers[word] |= 1 << warp;
                self.strong[word] = clock.now.max(self.strong[word]);
                self.write[word] = mine.after(Packed(self.write[word])).0;
            }
        });
        true
    }
}
