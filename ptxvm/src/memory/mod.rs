//! Memory: one address space for the process and all its devices, as with unified virtual addressing.
//!
//! Device addresses are addresses of the host process. Shared, local and parameter memory have windows of generic
//! addresses far above those.

mod access;
mod cache;
mod error;
pub(crate) mod mapping;
mod reservation;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use access::{Action, bad_alignment, bad_range};
pub(crate) use cache::{AllocationCache, Range};
pub use error::MemoryError;

use std::{
    collections::HashSet,
    ptr,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};
use table::{Table, Whereabouts};

/// Generic addresses of shared memory start here.
pub const SHARED_WINDOW: u64 = 1 << 48;
/// Generic addresses of local memory start here; the same address means different bytes in every lane.
pub const LOCAL_WINDOW: u64 = 2 << 48;
/// Generic addresses of kernel parameters start here.
pub const PARAM_WINDOW: u64 = 3 << 48;

/// Address space asked for at first: more than several large cards have, and none of it is memory before it is used.
const RESERVATION: u64 = 1 << 40;

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AllocationKind {
    /// Linear device memory.
    Device,
    /// Device memory in padded rows.
    Pitched,
    /// Device memory in the order of a stream, from a pool.
    AsyncPool,
    /// Host memory that is page-locked.
    Pinned,
    /// Managed memory.
    Managed,
    /// Memory of the host program that it has registered.
    HostRegistered,
    /// A `.global` variable of a module.
    ModuleGlobal,
    /// A `.const` variable of a module: kernels only read it.
    ModuleConst,
    /// Memory mapped into reserved addresses.
    Mapped,
    /// The machine's own.
    Internal,
}

impl AllocationKind {
    /// Whether it belongs to one device, so that others need peer access.
    fn is_of_one_device(self) -> bool {
        matches!(
            self,
            Self::Device | Self::Pitched | Self::AsyncPool | Self::Mapped | Self::ModuleGlobal | Self::ModuleConst
        )
    }
}

/// A range of memory that was allocated or registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Its number, in the order of allocation.
    pub id: u64,
    /// Its first address.
    pub base: u64,
    /// Its size.
    pub bytes: u64,
    /// What it is for.
    pub kind: AllocationKind,
    /// Whose it is.
    pub device: u32,
    /// Where it was made.
    pub serial_label: String,
}

/// Is told what the host does with memory. Called before the effect of reads, writes and frees, after that of
/// allocations.
pub trait MemoryWatcher: Send + Sync {
    /// An allocation has been made, or host memory registered.
    fn allocated(&self, allocation: &Allocation);
    /// An allocation has been freed, or host memory unregistered.
    fn freed(&self, allocation: &Allocation);
    /// A copy reads this part of an allocation; `to` is where it goes.
    fn copied_from(&self, allocation: &Allocation, address: u64, bytes: u64, to: u64);
    /// A copy or fill writes this part of an allocation; a copy reads from `from`.
    fn written(&self, allocation: &Allocation, address: u64, bytes: u64, from: Option<u64>);
}

/// The memory of the process's devices.
pub struct Memory {
    table: RwLock<Table>,
    /// First may reach the memory of second.
    peers: RwLock<HashSet<(u32, u32)>>,
    watched: AtomicBool,
    watcher: RwLock<Option<Arc<dyn MemoryWatcher>>>,
}

impl Memory {
    /// The process's.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<Memory> = OnceLock::new();
        GLOBAL.get_or_init(|| Self::new(RESERVATION))
    }

    fn new(reserve: u64) -> Self {
        Self {
            table: RwLock::new(Table::new(reserve)),
            peers: RwLock::default(),
            watched: AtomicBool::new(false),
            watcher: RwLock::default(),
        }
    }

    // A panic while the lock was held leaves a table that is still whole: every change to it is a single insertion or
    // removal, so the lock's poison is of no interest.
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets (or takes away) who is told of what the host does.
    pub fn watch(&self, watcher: Option<Arc<dyn MemoryWatcher>>) {
        self.watched.store(watcher.is_some(), Ordering::Release);
        *self.watcher.write().unwrap_or_else(PoisonError::into_inner) = watcher;
    }

    fn tell(&self, event: impl FnOnce(&dyn MemoryWatcher)) {
        if self.watched.load(Ordering::Acquire) {
            let watcher = self.watcher.read().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(watcher) = watcher {
                event(&*watcher);
            }
        }
    }

    /// New memory with undefined contents, between red zones.
    pub fn allocate(
        &self,
        bytes: u64,
        align: u64,
        kind: AllocationKind,
        device: u32,
        label: String,
    ) -> Result<u64, MemoryError> {
        let allocation = self.table_mut().allocate(bytes, align, kind, device, label)?;
        self.tell(|watcher| watcher.allocated(&allocation));
        Ok(allocation.base)
    }

    /// Makes memory of the host program usable by kernels.
    pub fn register_host(&self, pointer: u64, bytes: u64, label: String) -> Result<(), MemoryError> {
        let allocation = self.table_mut().register(pointer, bytes, label)?;
        self.tell(|watcher| watcher.allocated(&allocation));
        Ok(())
    }

    /// Frees an allocation, or unregisters host memory.
    pub fn free(&self, base: u64) -> Result<(), MemoryError> {
        let allocation = {
            let mut table = self.table_mut();
            // Counted with the lock held: who looks the allocation up afterwards sees the new generation.
            cache::GENERATION.fetch_add(1, Ordering::AcqRel);
            table.free(base)?
        };
        self.tell(|watcher| watcher.freed(&allocation));
        Ok(())
    }

    /// Frees an allocation but keeps its addresses for [`Self::revive`]: memory of a graph is where it was in every launch.
    pub(crate) fn park(&self, base: u64) -> Result<(), MemoryError> {
        let allocation = {
            let mut table = self.table_mut();
            cache::GENERATION.fetch_add(1, Ordering::AcqRel);
            table.park(base)?
        };
        self.tell(|watcher| watcher.freed(&allocation));
        Ok(())
    }

    /// Allocates anew, with undefined contents, what was parked. Anything else stays as it is.
    pub(crate) fn revive(&self, base: u64) {
        let revived = self.table_mut().revive(base);
        if let Some(allocation) = revived {
            self.tell(|watcher| watcher.allocated(&allocation));
        }
    }

    /// Gives up the addresses of what was parked.
    pub(crate) fn release(&self, base: u64) {
        self.table_mut().release(base);
    }

    /// The allocation that holds an address.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        self.table().find(address).cloned()
    }

    /// All allocations, by address.
    pub fn allocations(&self) -> Vec<Allocation> {
        self.table().live().cloned().collect()
    }

    /// Lets kernels of `device` use the memory of `peer`, or no longer.
    pub fn set_peer_access(&self, device: u32, peer: u32, allowed: bool) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if allowed {
            peers.insert((device, peer));
        } else {
            peers.remove(&(device, peer));
            cache::GENERATION.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn may_use(&self, device: u32, allocation: &Allocation) -> bool {
        !allocation.kind.is_of_one_device()
            || allocation.device == device
            || self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(&(device, allocation.device))
    }

    /// The range of the allocation that holds an address, if kernels of `device` may use it.
    fn range(&self, address: u64, device: u32) -> Option<Range> {
        let table = self.table();
        let allocation = table.find(address)?;
        if !self.may_use(device, allocation) {
            return None;
        }
        let (low, high) = (allocation.base, allocation.base + allocation.bytes);
        let writable = if allocation.kind == AllocationKind::ModuleConst { low } else { high };
        Some(Range { low, high, writable })
    }

    /// The allocation that holds a range; `None` for ordinary memory of the host program.
    pub(crate) fn check(
        &self,
        action: &'static str,
        address: u64,
        bytes: u64,
    ) -> Result<Option<Allocation>, MemoryError> {
        if address == 0 {
            return Err(MemoryError::Null { action, bytes });
        }
        let table = self.table();
        match table.whereabouts(address) {
            Whereabouts::Live(allocation) => {
                let left = allocation.base + allocation.bytes - address;
                if bytes > left {
                    let place = format!("only {left} bytes are left there of {allocation}");
                    return Err(MemoryError::OutOfBounds { action, address, bytes, place });
                }
                Ok(Some(allocation))
            }
            Whereabouts::Freed(allocation) => {
                Err(MemoryError::UseAfterFree { action, address, bytes, allocation: Box::new(allocation) })
            }
            Whereabouts::Nowhere(place) if table.reservation.contains(address) => {
                Err(MemoryError::OutOfBounds { action, address, bytes, place })
            }
            Whereabouts::Nowhere(_) => Ok(None),
        }
    }

    /// Copies between any mix of device and ordinary host addresses. Ranges may overlap.
    ///
    /// # Safety
    /// Addresses outside every allocation must be valid host memory of that size.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let source = self.check("read", from, bytes)?;
        let target = self.check("write", to, bytes)?;
        if let Some(allocation) = &source {
            self.tell(|watcher| watcher.copied_from(allocation, from, bytes, to));
        }
        if let Some(allocation) = &target {
            self.tell(|watcher| watcher.written(allocation, to, bytes, Some(from)));
        }
        // SAFETY: both ranges lie in an allocation, or the caller vouches for them.
        unsafe { ptr::copy(from as *const u8, to as *mut u8, bytes as usize) };
        Ok(())
    }

    /// Writes `count` copies of a pattern of 1, 2, 4, 8 or 16 bytes.
    ///
    /// # Safety
    /// An address outside every allocation must be valid host memory of that size.
    pub unsafe fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        let width = pattern.len() as u64;
        let bad = MemoryError::BadFill { address: to, pattern: width };
        if !matches!(width, 1 | 2 | 4 | 8 | 16) || !to.is_multiple_of(width.min(4)) {
            return Err(bad);
        }
        if count == 0 {
            return Ok(());
        }
        let bytes = count.checked_mul(width).ok_or(bad)?;
        if let Some(allocation) = self.check("write", to, bytes)? {
            self.tell(|watcher| watcher.written(&allocation, to, bytes, None));
        }
        if pattern.iter().all(|byte| *byte == pattern[0]) {
            // SAFETY: the range lies in an allocation, or the caller vouches for it.
            unsafe { ptr::write_bytes(to as *mut u8, pattern[0], bytes as usize) };
            return Ok(());
        }
        for index in 0..count {
            // SAFETY: as above; `index * width` stays below `bytes`.
            unsafe { ptr::copy_nonoverlapping(pattern.as_ptr(), (to + index * width) as *mut u8, pattern.len()) };
        }
        Ok(())
    }
}
