//! Addresses apart from memory: ranges that are reserved, physical memory, and the one mapped into the other.
//!
//! Physical memory is an anonymous file, so that it may appear at several addresses and move between them.

use super::{
    Allocation, AllocationKind, Memory, MemoryError, cache,
    table::{ALIGNMENT, Table},
};
use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::atomic::Ordering,
};

/// Reserved addresses are multiples of this, and so are the sizes of what is mapped there.
pub(crate) const GRANULARITY: u64 = 2 << 20;

/// Memory without an address.
#[derive(Debug)]
pub(crate) struct Physical {
    file: OwnedFd,
    pub(crate) bytes: u64,
}

impl Physical {
    /// Zeros, of which nothing takes room before it is written. `None`: the system refuses.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        // SAFETY: the name is a C string; the call touches no memory of ours.
        let descriptor = unsafe { libc::memfd_create(c"ptxvm".as_ptr(), libc::MFD_CLOEXEC) };
        if descriptor < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let size = libc::off_t::try_from(bytes).ok()?;
        // SAFETY: the descriptor is open.
        (unsafe { libc::ftruncate(file.as_raw_fd(), size) } == 0).then_some(Self { file, bytes })
    }
}

/// Puts a file (`None`: fresh memory) where `bytes` from `address` on were.
fn place_over(address: u64, bytes: u64, physical: Option<(&Physical, u64)>) -> bool {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let (kind, descriptor, offset) = match physical {
        Some((physical, offset)) => (libc::MAP_SHARED, physical.file.as_raw_fd(), offset),
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0),
    };
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    let flags = kind | libc::MAP_FIXED;
    // SAFETY: the range lies in what this process has reserved for device memory, and the caller holds the table's lock.
    let result = unsafe { libc::mmap(address as *mut _, bytes as usize, access, flags, descriptor, offset) };
    result != libc::MAP_FAILED
}

impl Table {
    fn reserved_around(&self, address: u64, bytes: u64) -> bool {
        let end = address.checked_add(bytes);
        let range = self.reserved.range(..=address).next_back();
        range.zip(end).is_some_and(|((base, size), end)| end <= base + size)
    }

    /// Mapped memory that touches or overlaps a range.
    fn mapped_at(&self, start: u64, end: u64) -> Vec<Allocation> {
        let near = self.live.range(..=end).rev().take_while(|(_, held)| held.base + held.bytes >= start);
        near.map(|(_, held)| held.clone()).filter(|held| held.kind == AllocationKind::Mapped).collect()
    }

    /// What is mapped side by side is one allocation, as far as its bounds go.
    fn show(&mut self, address: u64, bytes: u64, device: u32) -> Allocation {
        let (mut start, mut end) = (address, address + bytes);
        for neighbour in self.mapped_at(start, end).into_iter().filter(|held| held.device == device) {
            self.live.remove(&neighbour.base);
            start = start.min(neighbour.base);
            end = end.max(neighbour.base + neighbour.bytes);
        }
        self.new_allocation(start, end - start, AllocationKind::Mapped, device, "cuMemMap".to_owned())
    }

    fn hide(&mut self, address: u64, bytes: u64) {
        let end = address + bytes;
        for held in self.mapped_at(address, end) {
            let (first, last) = (held.base, held.base + held.bytes);
            if last <= address || first >= end {
                continue;
            }
            self.live.remove(&first);
            for (from, to) in [(first, address), (end, last)] {
                if from < to {
                    self.new_allocation(from, to - from, held.kind, held.device, held.serial_label.clone());
                }
            }
        }
    }
}

impl Memory {
    /// Addresses that nobody else gets, without memory. `None`: there are not that many.
    pub(crate) fn reserve_addresses(&self, bytes: u64, align: u64) -> Option<u64> {
        let mut table = self.table_mut();
        let base = table.place(bytes, align.max(GRANULARITY).max(ALIGNMENT))?;
        table.reserved.insert(base, bytes);
        Some(base)
    }

    /// Gives up reserved addresses; false: there are none there of this size.
    pub(crate) fn give_up_addresses(&self, base: u64, bytes: u64) -> bool {
        let mut table = self.table_mut();
        if table.reserved.get(&base) != Some(&bytes) {
            return false;
        }
        table.reserved.remove(&base);
        table.make_hole(base, bytes);
        true
    }

    /// Whether all of a range is reserved.
    pub(crate) fn is_reserved(&self, address: u64, bytes: u64) -> bool {
        self.table().reserved_around(address, bytes)
    }

    /// Puts memory behind reserved addresses. Nobody may use it before [`Self::allow_mapped`].
    pub(crate) fn map(&self, address: u64, bytes: u64, physical: &Physical, offset: u64) -> bool {
        let _table = self.table_mut();
        place_over(address, bytes, Some((physical, offset)))
    }

    /// Lets kernels and copies use what is mapped at a range.
    pub(crate) fn allow_mapped(&self, address: u64, bytes: u64, device: u32) {
        let part = {
            let mut table = self.table_mut();
            cache::GENERATION.fetch_add(1, Ordering::AcqRel);
            Allocation { base: address, bytes, ..table.show(address, bytes, device) }
        };
        self.tell(|watcher| watcher.allocated(&part));
    }

    /// Nobody may use the range any more; what is in it stays.
    pub(crate) fn forbid_mapped(&self, address: u64, bytes: u64) {
        let part = {
            let mut table = self.table_mut();
            cache::GENERATION.fetch_add(1, Ordering::AcqRel);
            let part = table.find(address).map(|held| Allocation { base: address, bytes, ..held.clone() });
            table.hide(address, bytes);
            part
        };
        if let Some(part) = part {
            self.tell(|watcher| watcher.freed(&part));
        }
    }

    /// Takes the memory away from a range.
    pub(crate) fn unmap(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        self.forbid_mapped(address, bytes);
        let _table = self.table_mut();
        if place_over(address, bytes, None) { Ok(()) } else { Err(MemoryError::OutOfMemory { bytes }) }
    }
}
