//! The shadow of global memory, by pages of 4 KiB: what has been written, who accessed it, and what has been released.

use super::{clock::Location, line::Line};
use std::{
    cell::UnsafeCell,
    collections::HashMap,
    ops::{Deref, DerefMut},
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicPtr, Ordering},
    },
};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes of a line.
pub(crate) const LINE: u64 = 128;
const LINES: usize = (PAGE / LINE) as usize;

/// What is known of a page.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageState {
    pub(crate) lines: [Line; LINES],
    /// Bytes that have been written, a bit each, line by line.
    pub(crate) written: [u128; LINES],
    /// Released at the words (of 4 bytes) of the page.
    // Boxed: few pages have any, and there are many pages.
    #[allow(clippy::box_collection, reason = "a page without them should stay small")]
    pub(crate) locations: Option<Box<HashMap<u16, Location>>>,
}

impl PageState {
    /// Forgets who has accessed some bytes, and what was released there.
    pub(crate) fn forget(&mut self, from: u64, bytes: u64) {
        for (line, mask) in lines(from, bytes) {
            self.lines[(line % PAGE / LINE) as usize].forget(mask);
        }
        if let Some(locations) = &mut self.locations {
            let (first, last) = (from % PAGE / 4, (from % PAGE + bytes - 1) / 4);
            locations.retain(|word, _| !(first..=last).contains(&u64::from(*word)));
        }
    }

    /// Forgets everything about some bytes; `written`: whether they count as written from now on.
    pub(crate) fn reset(&mut self, from: u64, bytes: u64, written: bool) {
        self.forget(from, bytes);
        for (line, mask) in lines(from, bytes) {
            let line = (line % PAGE / LINE) as usize;
            match written {
                true => self.written[line] |= mask,
                false => self.written[line] &= !mask,
            }
        }
    }
}

/// The lines that a range touches, and which of their bytes. The range must not be empty.
pub(crate) fn lines(from: u64, bytes: u64) -> impl Iterator<Item = (u64, u128)> {
    let end = from + bytes;
    (from / LINE..=(end - 1) / LINE).map(move |line| {
        let start = line * LINE;
        let low = from.max(start) - start;
        let high = end.min(start + LINE) - start;
        (start, range_mask(low as u32, (high - low) as u32))
    })
}

/// `count` bits from bit `low`.
pub(crate) fn range_mask(low: u32, count: u32) -> u128 {
    if count >= 128 { u128::MAX << low } else { ((1 << count) - 1) << low }
}

/// The pieces of a range that lie in one page each.
pub(crate) fn pieces(from: u64, bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = from.saturating_add(bytes);
    let first = (bytes > 0).then_some(from);
    std::iter::successors(first, move |at| Some((at / PAGE + 1) * PAGE).filter(|next| *next < end))
        .map(move |at| (at, end.min((at / PAGE + 1) * PAGE) - at))
}

/// A page and its lock. It is held for the time of one access at most, and hardly ever by two at once, so what counts is
/// what it costs when it is free: one locked instruction.
struct Page {
    busy: AtomicBool,
    state: UnsafeCell<PageState>,
}

// SAFETY: the state is only reached through a guard, and there is one at a time.
unsafe impl Sync for Page {}

impl Page {
    #[inline]
    fn lock(&self) -> PageGuard<'_> {
        const LOOKS: u32 = 100;
        while self.busy.swap(true, Ordering::Acquire) {
            let mut looks = 0;
            while self.busy.load(Ordering::Relaxed) {
                looks += 1;
                if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
        }
        PageGuard(self)
    }
}

/// A page that is locked until this is dropped.
pub(crate) struct PageGuard<'a>(&'a Page);

impl Deref for PageGuard<'_> {
    type Target = PageState;

    fn deref(&self) -> &PageState {
        // SAFETY: the lock is held.
        unsafe { &*self.0.state.get() }
    }
}

impl DerefMut for PageGuard<'_> {
    fn deref_mut(&mut self) -> &mut PageState {
        // SAFETY: the lock is held.
        unsafe { &mut *self.0.state.get() }
    }
}

impl Drop for PageGuard<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

type Leaf = [AtomicPtr<Page>; FAN];
type Branch = [AtomicPtr<Leaf>; FAN];

/// Entries of a level of the tree: three levels and the page make 48 bits of address.
const FAN: usize = 1 << 12;

fn empty<T>() -> Box<[AtomicPtr<T>; FAN]> {
    let list: Vec<AtomicPtr<T>> = (0..FAN).map(|_| AtomicPtr::default()).collect();
    match list.into_boxed_slice().try_into() {
        Ok(array) => array,
        Err(_) => unreachable!("the list was made with FAN entries"),
    }
}

/// All pages of the process. Pages are made when they are first touched and stay.
pub(crate) struct Pages {
    root: Box<[AtomicPtr<Branch>; FAN]>,
    /// What a page is when it is first touched.
    start: Option<Start>,
}

type Start = Box<dyn Fn(u64) -> PageState + Send + Sync>;

impl Pages {
    pub(crate) fn new() -> Self {
        Self { root: empty(), start: None }
    }

    /// Pages that start as `start` says.
    pub(crate) fn over(start: impl Fn(u64) -> PageState + Send + Sync + 'static) -> Self {
        Self { root: empty(), start: Some(Box::new(start)) }
    }

    /// The process's.
    pub(crate) fn global() -> &'static Arc<Self> {
        static GLOBAL: OnceLock<Arc<Pages>> = OnceLock::new();
        GLOBAL.get_or_init(|| Arc::new(Self::new()))
    }

    /// The page that holds an address, locked.
    pub(crate) fn lock(&self, address: u64) -> PageGuard<'_> {
        let index = |shift: u32| (address >> shift) as usize & (FAN - 1);
        let branch = child(&self.root[index(36)], empty);
        let leaf = child(&branch[index(24)], empty);
        let page = child(&leaf[index(12)], || {
            let state = self.start.as_ref().map_or_else(PageState::default, |start| start(address / PAGE * PAGE));
            Box::new(Page { busy: AtomicBool::new(false), state: UnsafeCell::new(state) })
        });
        page.lock()
    }

    /// Asks the processor for what is known of the lines of some addresses: they are far apart, and are looked at one after
    /// another, each behind a lock that nothing overtakes.
    pub(crate) fn fetch(&self, mask: u32, addresses: &[u64; 32]) {
        #[cfg(target_arch = "x86_64")]
        for lane in (0..32).filter(|lane| mask >> lane & 1 != 0) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let address = addresses[lane];
            let index = |shift: u32| (address >> shift) as usize & (FAN - 1);
            let branch = self.root[index(36)].load(Ordering::Acquire);
            // SAFETY: slots are null or point to boxes that live as long as the tree; nothing of a page is read here.
            unsafe {
                let Some(branch) = branch.as_ref() else { continue };
                let Some(leaf) = branch[index(24)].load(Ordering::Acquire).as_ref() else { continue };
                let page = leaf[index(12)].load(Ordering::Acquire);
                if page.is_null() {
                    continue;
                }
                let state = UnsafeCell::raw_get(&raw const (*page).state);
                let line = (address % PAGE / LINE) as usize;
                let first = (&raw const (*state).lines).cast::<Line>().add(line);
                _mm_prefetch::<_MM_HINT_T0>((&raw const (*page).busy).cast());
                _mm_prefetch::<_MM_HINT_T0>(first.cast());
                _mm_prefetch::<_MM_HINT_T0>(first.add(1).cast::<i8>().sub(1));
                _mm_prefetch::<_MM_HINT_T0>((&raw const (*state).written).cast::<u128>().add(line).cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (mask, addresses);
    }

    /// See [`PageState::reset`].
    pub(crate) fn reset(&self, from: u64, bytes: u64, written: bool) {
        for (at, count) in pieces(from, bytes) {
            self.lock(at).reset(at, count, written);
        }
    }
}

/// What a slot points to, made at need.
#[inline]
fn child<T>(slot: &AtomicPtr<T>, make: impl FnOnce() -> Box<T>) -> &T {
    let mut found = slot.load(Ordering::Acquire);
    if found.is_null() {
        let made = Box::into_raw(make());
        found = match slot.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                other
            }
        };
    }
    // SAFETY: slots are set once, to boxes that live as long as the tree that the slot belongs to.
    unsafe { &*found }
}

impl Drop for Pages {
    fn drop(&mut self) {
        fn take<T>(slot: &mut AtomicPtr<T>) -> Option<Box<T>> {
            let pointer = *slot.get_mut();
            // SAFETY: slots hold boxes that `child` gave up; nobody else uses the tree any more.
            (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
        }
        for mut branch in self.root.iter_mut().filter_map(take) {
            for mut leaf in branch.iter_mut().filter_map(take) {
                leaf.iter_mut().for_each(|page| drop(take(page)));
            }
        }
    }
}
