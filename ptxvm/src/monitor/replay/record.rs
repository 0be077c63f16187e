//! What a launch finds in memory and in its shadow before it changes them.

use crate::{
    memory::Memory,
    monitor::pages::{LINE, PAGE, PageState, Pages, lines},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const LINES: usize = (PAGE / LINE) as usize;

/// Some bytes of a page.
struct Kept {
    masks: [u128; LINES],
    bytes: Box<[u8; PAGE as usize]>,
}

/// Whether there still is an allocation where bytes of a line were written.
fn is_memory(line: u64, mask: u128) -> bool {
    Memory::global().find(line + u64::from(mask.trailing_zeros())).is_some()
}

/// Bytes of global memory, as they were at some time.
#[derive(Default)]
pub(super) struct Bytes(HashMap<u64, Kept>);

impl Bytes {
    /// Keeps what is not kept yet of a line.
    fn keep(&mut self, line: u64, mask: u128) {
        let new = || Kept { masks: [0; LINES], bytes: Box::new([0; PAGE as usize]) };
        let page = self.0.entry(line / PAGE * PAGE).or_insert_with(new);
        let number = (line % PAGE / LINE) as usize;
        let fresh = mask & !page.masks[number];
        page.masks[number] |= mask;
        for byte in (0..LINE).filter(|byte| fresh >> byte & 1 != 0) {
            // SAFETY: the access has been found to lie in an allocation, and is yet to come. Memory of an allocation can be
            // read at any time: all values of bytes are fine.
            page.bytes[(line % PAGE + byte) as usize] = unsafe { ((line + byte) as *const u8).read_volatile() };
        }
    }

    /// The same bytes as they are now.
    pub(super) fn now(&self) -> Self {
        let mut now = Self::default();
        for (page, kept) in &self.0 {
            for (number, mask) in kept.masks.iter().enumerate().filter(|(_, mask)| **mask != 0) {
                let line = page + number as u64 * LINE;
                if is_memory(line, *mask) {
                    now.keep(line, *mask);
                }
            }
        }
        now
    }

    /// Puts the bytes back, where there still is memory.
    pub(super) fn put_back(&self) {
        for (page, kept) in &self.0 {
            for (number, mask) in kept.masks.iter().enumerate().filter(|(_, mask)| **mask != 0) {
                let line = page + number as u64 * LINE;
                if !is_memory(line, *mask) {
                    continue;
                }
                for byte in (0..LINE).filter(|byte| mask >> byte & 1 != 0) {
                    // SAFETY: the line is part of an allocation, and the byte was written by a launch, so it is too.
                    unsafe {
                        ((line + byte) as *mut u8).write_volatile(kept.bytes[(line % PAGE + byte) as usize]);
                    }
                }
            }
        }
    }

    /// Whether the host can see any of them without asking for a copy.
    pub(super) fn are_seen_by_host(&self) -> bool {
        use crate::memory::AllocationKind::{HostRegistered, Managed, Pinned};
        let seen = |at: u64| {
            Memory::global().find(at).is_some_and(|found| matches!(found.kind, HostRegistered | Managed | Pinned))
        };
        self.0.iter().any(|(page, kept)| {
            lines(*page, PAGE)
                .zip(&kept.masks)
                .any(|((line, _), mask)| *mask != 0 && seen(line + u64::from(mask.trailing_zeros())))
        })
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Record {
    /// The shadow of each page that has been touched, before.
    pages: Mutex<HashMap<u64, PageState>>,
    /// The bytes that have been written, before; all runs of a launch add to them.
    bytes: Arc<Mutex<Bytes>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    /// A page is about to be touched.
    pub(crate) fn touches(&self, page: u64, state: &PageState) {
        lock(&self.pages).entry(page).or_insert_with(|| state.clone());
    }

    /// Bytes of a line are about to be written.
    pub(crate) fn writes(&self, line: u64, mask: u128) {
        lock(&self.bytes).keep(line, mask);
    }

    /// The bytes that have been written so far, as they were before.
    pub(super) fn bytes(&self) -> MutexGuard<'_, Bytes> {
        lock(&self.bytes)
    }

    /// A record of another run of the launch: it adds to the bytes that have to be put back.
    pub(super) fn again(&self) -> Self {
        Self { pages: Mutex::default(), bytes: self.bytes.clone() }
    }

    /// The shadow of global memory as the launch has found it.
    pub(super) fn shadow(self: &Arc<Self>) -> Pages {
        let record = self.clone();
        Pages::over(move |page| match lock(&record.pages).get(&(page / PAGE)) {
            Some(state) => state.clone(),
            None => Pages::global().lock(page).clone(),
        })
    }
}
