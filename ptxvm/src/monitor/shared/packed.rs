//! A word of the shadow: one access, packed.

use super::SharedAccess;

pub(super) const CLOCK: u32 = 40;
pub(super) const WARP: u32 = 35;
pub(super) const SITE: u32 = 15;
pub(super) const LANE: u32 = 10;
pub(super) const BYTES: u32 = 6;
/// A strong or atomic access.
pub(super) const STRONG: u64 = 1;
/// More than one lane has accessed the word.
pub(super) const SEVERAL: u64 = 2;
/// Lanes of 2 bytes (or, with both bits, of 1) lie side by side in the word; `LANE` is the one at its first byte.
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
    pub(super) fn new(access: &SharedAccess, clock: u32) -> Self {
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

    pub(super) fn step(self, byte: u32) -> u32 {
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

    /// For bytes of one word: the access with the lane moved to where its word begins.
    pub(super) fn at(self, byte: u32, bytes: u32) -> Self {
        let lane = ((self.0 >> LANE) as u32).wrapping_sub(self.step(byte)) & 31;
        Self(self.0 & !(31 << LANE) & !(15 << BYTES) | u64::from(lane) << LANE | u64::from(bytes) << BYTES)
    }

    /// What is kept when `self` comes after `old` in the same row.
    #[inline]
    pub(super) fn after(self, old: Self) -> Self {
        const WHERE: u64 = PATTERN | (15 << BYTES) | SEVERAL;
        if (self.0 ^ old.0) & !WHERE & !(u64::from(SITES) << SITE) != 0 {
            return self;
        }
        // The same warp between two synchronisations.
        let overlap = old.bytes() & self.bytes() != 0;
        let mut merged = self.0 | old.0 & (15 << BYTES);
        if old.has(SEVERAL) || (self.0 ^ old.0) & PATTERN != 0 && (overlap || self.bytes() != 15) {
            merged |= SEVERAL;
        }
        Self(merged)
    }
}
