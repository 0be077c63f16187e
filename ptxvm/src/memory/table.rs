//! Which addresses are allocated, which were, and which can be had.

use super::{Allocation, AllocationKind, MemoryError, reservation::Reservation};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

/// Bytes between two allocations that belong to neither, so that running over one never ends in another at once.
pub(super) const RED_ZONE: u64 = 512;

/// Every allocation is aligned at least to this.
pub(super) const ALIGNMENT: u64 = 256;

/// Freed ranges that are kept from being used again.
const QUARANTINED_RANGES: usize = 1 << 14;

/// Bytes of freed ranges that are kept from being used again.
const QUARANTINED_BYTES: u64 = 8 << 30;

/// The allocations of a process.
pub(super) struct Table {
    pub(super) reservation: Reservation,
    pub(super) live: BTreeMap<u64, Allocation>,
    /// Ranges of addresses that a program has reserved, with their sizes.
    pub(super) reserved: BTreeMap<u64, u64>,
    freed: BTreeMap<u64, Allocation>,
    /// Bases in `freed` whose addresses are kept for an allocation to come back to.
    parked: BTreeSet<u64>,
    /// The other bases in `freed`, oldest first.
    quarantine: VecDeque<u64>,
    quarantined: u64,
    /// Ranges within the reservation below `next` that can be used again: start and end.
    holes: BTreeMap<u64, u64>,
    /// Nothing above has been handed out yet.
    next: u64,
    ids: u64,
}

/// What lies at an address.
#[derive(Debug)]
pub(super) enum Whereabouts {
    /// An allocation.
    Live(Allocation),
    /// What used to be an allocation.
    Freed(Allocation),
    /// Neither; in words.
    Nowhere(String),
}

impl Table {
    pub(super) fn new(reserve: u64) -> Self {
        let reservation = Reservation::new(reserve);
        let next = reservation.start + ALIGNMENT.max(RED_ZONE);
        Self {
            reservation,
            live: BTreeMap::new(),
            reserved: BTreeMap::new(),
            freed: BTreeMap::new(),
            parked: BTreeSet::new(),
            quarantine: VecDeque::new(),
            quarantined: 0,
            holes: BTreeMap::new(),
            next,
            ids: 0,
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Allocation> {
        self.live.values()
    }

    /// The allocation that holds an address.
    pub(super) fn find(&self, address: u64) -> Option<&Allocation> {
        holder(&self.live, address)
    }

    pub(super) fn new_allocation(
        &mut self,
        base: u64,
        bytes: u64,
        kind: AllocationKind,
        device: u32,
        serial_label: String,
    ) -> Allocation {
        self.ids += 1;
        let allocation = Allocation { id: self.ids, base, bytes, kind, device, serial_label };
        self.live.insert(base, allocation.clone());
        allocation
    }

    pub(super) fn allocate(
        &mut self,
        bytes: u64,
        align: u64,
        kind: AllocationKind,
        device: u32,
        label: String,
    ) -> Result<Allocation, MemoryError> {
        let align = align.max(ALIGNMENT).next_power_of_two();
        let base = loop {
            match self.place(bytes, align) {
                Some(base) => break base,
                // The oldest freed ranges are used again before an allocation fails.
                None if self.quarantine.is_empty() => return Err(MemoryError::OutOfMemory { bytes }),
                None => self.release_oldest(),
            }
        };
        Ok(self.new_allocation(base, bytes, kind, device, label))
    }

    pub(super) fn place(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let room = extent(bytes)?;
        let aligned = |start: u64| start.checked_next_multiple_of(align);
        let hole = self.holes.iter().find_map(|(&start, &end)| {
            let base = aligned(start)?;
            (base.checked_add(room)? <= end).then_some((start, end, base))
        });
        if let Some((start, end, base)) = hole {
            self.holes.remove(&start);
            if base > start {
                self.holes.insert(start, base);
            }
            if base + room < end {
                self.holes.insert(base + room, end);
            }
            return Some(base);
        }
        let base = aligned(self.next)?;
        let end = base.checked_add(room)?;
        if end > self.reservation.end || !self.reservation.make_usable(end) {
            return None;
        }
        self.next = end;
        Some(base)
    }

    pub(super) fn register(&mut self, base: u64, bytes: u64, label: String) -> Result<Allocation, MemoryError> {
        if base == 0 {
            return Err(MemoryError::Null { action: "registration", bytes });
        }
        let end = base.checked_add(bytes).ok_or(MemoryError::NotAllocated { address: base })?;
        let below = self.live.range(..end).next_back().map(|(_, allocation)| allocation);
        if let Some(other) = below.filter(|other| other.base + other.bytes > base) {
            return Err(MemoryError::AlreadyRegistered { address: base, bytes, allocation: Box::new(other.clone()) });
        }
        Ok(self.new_allocation(base, bytes, AllocationKind::HostRegistered, 0, label))
    }

    pub(super) fn free(&mut self, base: u64) -> Result<Allocation, MemoryError> {
        let allocation = self.live.remove(&base).ok_or_else(|| self.not_freeable(base))?;
        if self.reservation.contains(base) {
            self.reservation.give_back(base, base + allocation.bytes);
            self.freed.insert(base, allocation.clone());
            self.put_in_quarantine(base, allocation.bytes);
        }
        Ok(allocation)
    }

    /// Why nothing can be freed at `base`.
    fn not_freeable(&self, base: u64) -> MemoryError {
        match self.whereabouts(base) {
            Whereabouts::Live(allocation) => MemoryError::NotABase { address: base, allocation: Box::new(allocation) },
            Whereabouts::Freed(allocation) => {
                MemoryError::AlreadyFreed { address: base, allocation: Box::new(allocation) }
            }
            Whereabouts::Nowhere(_) => MemoryError::NotAllocated { address: base },
        }
    }

    fn put_in_quarantine(&mut self, base: u64, bytes: u64) {
        self.quarantine.push_back(base);
        self.quarantined += bytes;
        while self.quarantine.len() > QUARANTINED_RANGES
            || self.quarantined > QUARANTINED_BYTES && self.quarantine.len() > 1
        {
            self.release_oldest();
        }
    }

    /// Frees an allocation whose addresses nobody else gets before [`Self::release`].
    pub(super) fn park(&mut self, base: u64) -> Result<Allocation, MemoryError> {
        let allocation = self.live.remove(&base).ok_or_else(|| self.not_freeable(base))?;
        self.reservation.give_back(base, base + allocation.bytes);
        self.freed.insert(base, allocation.clone());
        self.parked.insert(base);
        Ok(allocation)
    }

    /// A parked allocation is there again, as a new one. `None`: it is not parked.
    pub(super) fn revive(&mut self, base: u64) -> Option<Allocation> {
        if !self.parked.remove(&base) {
            return None;
        }
        let old = self.freed.remove(&base)?;
        Some(self.new_allocation(base, old.bytes, old.kind, old.device, old.serial_label))
    }

    /// Gives up the addresses of a parked allocation.
    pub(super) fn release(&mut self, base: u64) {
        if self.parked.remove(&base) {
            let bytes = self.freed.get(&base).map_or(0, |allocation| allocation.bytes);
            self.put_in_quarantine(base, bytes);
        }
    }

    /// Makes the range that was freed first usable again.
    fn release_oldest(&mut self) {
        let Some(base) = self.quarantine.pop_front() else { return };
        let Some(allocation) = self.freed.remove(&base) else { return };
        self.quarantined -= allocation.bytes;
        self.make_hole(base, allocation.bytes);
    }

    /// What was placed at `base` can be used again.
    pub(super) fn make_hole(&mut self, base: u64, bytes: u64) {
        let mut start = base;
        let mut end = base + extent(bytes).unwrap_or(0);
        if let Some((&before, &before_end)) = self.holes.range(..start).next_back()
            && before_end == start
        {
            self.holes.remove(&before);
            start = before;
        }
        if let Some(after_end) = self.holes.remove(&end) {
            end = after_end;
        }
        self.holes.insert(start, end);
    }

    /// What lies at an address.
    pub(super) fn whereabouts(&self, address: u64) -> Whereabouts {
        if let Some(allocation) = self.find(address) {
            return Whereabouts::Live(allocation.clone());
        }
        if let Some(allocation) = holder(&self.freed, address) {
            return Whereabouts::Freed(allocation.clone());
        }
        let below = self.live.range(..=address).next_back().map(|(_, found)| found);
        let above = self.live.range(address..).next().map(|(_, found)| found);
        let after = below.map(|found| (address - (found.base + found.bytes), found));
        let before = above.map(|found| (found.base - address, found));
        Whereabouts::Nowhere(match (after, before) {
            (Some((after, found)), Some((before, _))) if after <= before => distance(after, "after the end of", found),
            (_, Some((before, found))) => distance(before, "before", found),
            (Some((after, found)), None) => distance(after, "after the end of", found),
            (None, None) => "there are no allocations".to_owned(),
        })
    }
}

fn distance(bytes: u64, relation: &str, allocation: &Allocation) -> String {
    format!("{bytes} bytes {relation} {allocation}")
}

/// Bytes that an allocation takes up with the red zone behind it; the one in front belongs to its neighbour.
fn extent(bytes: u64) -> Option<u64> {
    bytes.max(1).checked_next_multiple_of(ALIGNMENT)?.checked_add(RED_ZONE)
}

fn holder(allocations: &BTreeMap<u64, Allocation>, address: u64) -> Option<&Allocation> {
    let (_, allocation) = allocations.range(..=address).next_back()?;
    (address - allocation.base < allocation.bytes).then_some(allocation)
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allocation #{} of {} bytes at 0x{:x} ({})", self.id, self.bytes, self.base, self.serial_label)
    }
}
