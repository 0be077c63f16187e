//! What a warp remembers of the allocations that it has used, so that most accesses find theirs without a lock.

use super::Memory;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts everything that takes addresses away from kernels: frees, and peers that may no longer reach each other.
pub(super) static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Ranges remembered: more than the pointers that most kernels work with.
const RANGES: usize = 8;

/// Addresses from `low` up to `high` are an allocation. Up to `writable` they may be written: that is `high`, or `low`
/// for constants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Range {
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) writable: u64,
}

/// The allocations that a warp has used of late.
#[derive(Clone, Debug)]
pub(crate) struct AllocationCache {
    ranges: [Range; RANGES],
    next: usize,
    generation: u64,
    device: u32,
}

impl Default for AllocationCache {
    fn default() -> Self {
        Self { ranges: [Range::default(); RANGES], next: 0, generation: 0, device: 0 }
    }
}

impl AllocationCache {
    /// The remembered allocation that holds an address.
    #[inline(always)]
    pub(crate) fn lookup(&self, address: u64) -> Option<Range> {
        if self.generation != GENERATION.load(Ordering::Acquire) {
            return None;
        }
        self.ranges.iter().find(|range| address.wrapping_sub(range.low) < range.high - range.low).copied()
    }

    /// The allocation that holds an address, if `device` may use it; remembers it.
    #[cold]
    pub(crate) fn fill(&mut self, address: u64, device: u32) -> Option<Range> {
        // Read before the allocation is looked up: should it be freed in between, the next access looks again.
        let generation = GENERATION.load(Ordering::Acquire);
        if self.generation != generation || self.device != device {
            *self = Self { generation, device, ..Self::default() };
        }
        let range = Memory::global().range(address, device)?;
        self.ranges[self.next] = range;
        self.next = (self.next + 1) % RANGES;
        Some(range)
    }
}
