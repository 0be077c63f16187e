//! The address range that allocations are carved from.

use std::ptr;

/// Pages become usable in steps of this size.
const STEP: u64 = 64 << 20;

/// The system's page size is at most this on the machines that this runs on; what is given back is whole units of it.
const PAGE: u64 = 1 << 16;

/// A range of addresses that nobody else gets. It takes no memory until it is touched.
pub(super) struct Reservation {
    pub(super) start: u64,
    pub(super) end: u64,
    usable: u64,
}

impl Reservation {
    /// As much as the system grants, at most `wanted` bytes.
    pub(super) fn new(wanted: u64) -> Self {
        let mut bytes = wanted;
        while bytes >= STEP {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            // SAFETY: a new private mapping at an address of the system's choice touches nobody's memory.
            let start = unsafe { libc::mmap(ptr::null_mut(), bytes as usize, libc::PROT_NONE, flags, -1, 0) };
            if start != libc::MAP_FAILED {
                let start = start as u64;
                return Self { start, end: start + bytes, usable: start };
            }
            bytes /= 2;
        }
        Self { start: 0, end: 0, usable: 0 }
    }

    /// Whether an address lies in it.
    pub(super) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Makes everything below `end` usable. False: the system refuses.
    pub(super) fn make_usable(&mut self, end: u64) -> bool {
        if end <= self.usable {
            return true;
        }
        let target = (end.div_ceil(STEP) * STEP).min(self.end);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range belongs to this reservation and has not been handed out yet.
        let result = unsafe { libc::mprotect(self.usable as *mut _, (target - self.usable) as usize, access) };
        if result == 0 {
            self.usable = target;
        }
        result == 0
    }

    /// Gives the whole pages within a range back to the system; they read as zeros afterwards.
    pub(super) fn give_back(&self, start: u64, end: u64) {
        let (start, end) = (start.div_ceil(PAGE) * PAGE, end / PAGE * PAGE);
        if start < end {
            // SAFETY: the range has been freed, so nobody relies on what it holds; should the system refuse, the pages
            // merely stay.
            unsafe { libc::madvise(start as *mut _, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.end > self.start {
            // SAFETY: the mapping was made by `new` and its owner is gone.
            unsafe { libc::munmap(self.start as *mut _, (self.end - self.start) as usize) };
        }
    }
}
