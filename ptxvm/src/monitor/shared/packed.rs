//! A word of the shadow: one access, packed.

use super::SharedAccess;

pub(super) const CLOCK: u32 = 40;
pub(super) const WARP: u32 = 35;
pub(super) const SITE: u32 = 15;
pub(super) const LANE: u32 = 10;
pub(super) const BYTES: u32 = 6;
/// A strong or atomic access.
pub(super) const STRONG: u64 = 1;
/// More than one lane has accessed each of the bytes.
pub(super) const SEVERAL: u64 = 2;
/// Lanes of 2 bytes (or, with both bits, of 1) lie side by side in the word; `LANE` is the one at its first byte. Without either, all bytes
/// are one lane's.
pub(super) const HALVES: u64 = 4;
pub(super) const QUARTERS: u64 = 8;
/// A warp-wide instruction: all lanes have met when it is done.
pub(super) const COLLECTIVE: u64 = 16;
/// By an asynchronous copy that has not been waited for. The clock is above all others.
pub(super) const ASYNC: u64 = 32;
/// Sites that fit.
pub(super) const SITES: u32 = (1 << 20) - 1;

/// Which lanes: where the first is and how many share the word.
pub(super) const PATTERN: u64 = (31 << LANE) | HALVES | QUARTERS;
/// An access that has these as another has them is by the very same lanes.
pub(super) const OWN: u64 = (31 << WARP) | PATTERN | SEVERAL | ASYNC;

/// An access, as packed into a shadow word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(pub(super) u64);

impl Packed {
    /// By one lane, of no bytes yet.
    pub(super) fn new(access: &SharedAccess, clock: u32) -> Self {
        let mut bits = u64::from(clock) << CLOCK
            | u64::from(access.warp) << WARP
            | u64::from(access.site.min(SITES)) << SITE
            | u64::from(access.lane) << LANE;
        bits |= if access.strong { STRONG } else { 0 };
        bits |= if access.collective { COLLECTIVE } else { 0 };
        Self(bits)
    }

    /// Of a whole word, by lanes side by side from the access's own on.
    pub(super) fn side_by_side(access: &SharedAccess, clock: u32) -> Self {
        let pattern = match access.bytes {
            1 => HALVES | QUARTERS,
            2 => HALVES,
            _ => 0,
        };
        Self(Self::new(access, clock).0 | pattern | 15 << BYTES)
    }

    pub(super) fn clock(self) -> u32 {
        (self.0 >> CLOCK) as u32
    }

    pub(crate) fn warp(self) -> u32 {
        (self.0 >> WARP) as u32 & 31
    }

    pub(crate) fn site(self) -> u32 {
        (self.0 >> SITE) as u32 & SITES
    }

    pub(super) fn bytes(self) -> u32 {
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

    pub(super) fn is_atomic(self) -> bool {
        self.has(STRONG) && self.has(COLLECTIVE)
    }

    pub(super) fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The same of these bytes of a word.
    pub(super) fn over(self, bytes: u32) -> Self {
        Self(self.0 & !(15 << BYTES) | u64::from(bytes) << BYTES)
    }

    /// What is kept when `self` comes after `old` in the same row.
    #[inline]
    pub(super) fn after(self, old: Self) -> Self {
        const WHERE: u64 = PATTERN | (15 << BYTES) | SEVERAL;
        if (self.0 ^ old.0) & !WHERE & !(u64::from(SITES) << SITE) != 0 {
            return self;
        }
        // The same warp between two synchronisations.
        if (self.0 ^ old.0) & (PATTERN | SEVERAL) == 0 {
            return self.over(self.bytes() | old.bytes());
        }
        self.beside(old)
    }

    /// [`Packed::after`] of other lanes. What several lanes have accessed tells most; beside that, or where the lanes of the bytes have no
    /// pattern, the rest is forgotten rather than blamed on the wrong lane.
    fn beside(self, old: Self) -> Self {
        let shared = |byte: &u32| (self.bytes() & old.bytes()) >> byte & 1 != 0 && old.lane(*byte) != self.lane(*byte);
        let several = if old.has(SEVERAL) { old.bytes() } else { (0..4).filter(shared).map(|byte| 1 << byte).sum() };
        if several != 0 {
            return Self(self.over(several).0 | SEVERAL);
        }
        let bytes = self.bytes() | old.bytes();
        let lane = |byte| if self.bytes() >> byte & 1 != 0 { self.lane(byte) } else { old.lane(byte) };
        let first = bytes.trailing_zeros();
        for pattern in [0, HALVES, HALVES | QUARTERS] {
            let alike = Self(self.over(bytes).0 & !PATTERN | pattern);
            let from = u64::from(lane(first).wrapping_sub(alike.step(first)) & 31);
            let alike = Self(alike.0 | from << LANE);
            if (first..4).all(|byte| bytes >> byte & 1 == 0 || alike.lane(byte) == lane(byte)) {
                return alike;
            }
        }
        self
    }
}
