//! What the host does with device memory, as the checkers see it.

use super::{
    line::{Lanes, Note, Relation},
    pages::{LINE, PAGE, Pages, pieces},
    site::{self, At, Source},
    tell,
};
use crate::{
    machine::Order,
    memory::{Allocation, AllocationKind, Memory, MemoryError, MemoryWatcher},
    report::{AllocationNote, Finding, Findings, Other, Spot},
};
use std::{
    cell::RefCell,
    collections::HashMap,
    mem::ManuallyDrop,
    sync::{
        Arc, Once, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

thread_local! {
    /// Whoever this thread acts for. Never dropped, so that calls while the process ends still find it; it is empty then.
    static ACTING: RefCell<ManuallyDrop<Option<Arc<Source>>>> = const { RefCell::new(ManuallyDrop::new(None)) };
}

/// Copies and fills of this thread are part of this until it is dropped.
pub(crate) struct Acting(Option<Arc<Source>>);

impl Drop for Acting {
    fn drop(&mut self) {
        ACTING.with(|acting| **acting.borrow_mut() = self.0.take());
    }
}

/// What this thread copies and fills from now on stands at `order` among everything; `host`: the host does it at once.
pub(crate) fn acting(order: &Order, label: &str, host: bool) -> Acting {
    if !super::is_checked() {
        return Acting(None);
    }
    let source = site::register(|id| Source {
        id,
        kernel: None,
        host,
        label: label.to_owned(),
        order: Some(order.clone()),
        seed: None,
    });
    Acting(ACTING.with(|acting| acting.borrow_mut().replace(source)))
}

/// Watches the process's memory.
struct Watcher;

/// Sees to it that the checkers are told of what the host does with memory.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let memory = Memory::global();
        memory.watch(Some(Arc::new(Watcher)));
        // Nothing is known of what was allocated before.
        for allocation in memory.allocations() {
            Pages::global().reset(allocation.base, allocation.bytes, true);
        }
    });
}

/// Whether memory of this kind starts with contents nobody has chosen.
fn starts_undefined(kind: AllocationKind) -> bool {
    matches!(kind, AllocationKind::Device | AllocationKind::Pitched | AllocationKind::AsyncPool)
}

impl MemoryWatcher for Watcher {
    fn allocated(&self, allocation: &Allocation) {
        Pages::global().reset(allocation.base, allocation.bytes, !starts_undefined(allocation.kind));
    }

    fn freed(&self, allocation: &Allocation) {
        touch(allocation.base, allocation.bytes, true, true);
    }

    fn copied_from(&self, _allocation: &Allocation, address: u64, bytes: u64, _to: u64) {
        touch(address, bytes, false, false);
    }

    fn written(&self, _allocation: &Allocation, address: u64, bytes: u64, from: Option<u64>) {
        touch(address, bytes, true, false);
        let pages = Pages::global();
        let source = from.filter(|from| Memory::global().find(*from).is_some());
        for (at, count) in pieces(address, bytes) {
            let written = source.map(|from| written_bytes(pages, from + (at - address), count));
            let mut page = pages.lock(at);
            let mut offset = 0;
            for (line, mask) in super::pages::lines(at, count) {
                let known =
                    written.as_ref().map_or(u128::MAX, |bits| bits_at(bits, offset)) << mask.trailing_zeros() & mask;
                let target = &mut page.written[(line % PAGE / LINE) as usize];
                *target = *target & !mask | known;
                offset += u64::from(mask.count_ones());
            }
        }
    }
}

/// Which bytes of a range have been written, a bit each.
fn written_bytes(pages: &Pages, from: u64, bytes: u64) -> Vec<u128> {
    let mut bits = vec![0u128; bytes.div_ceil(128) as usize + 1];
    let mut offset = 0u64;
    for (at, count) in pieces(from, bytes) {
        let page = pages.lock(at);
        for (line, mask) in super::pages::lines(at, count) {
            let known = (page.written[(line % PAGE / LINE) as usize] & mask) >> mask.trailing_zeros();
            let (word, shift) = ((offset / 128) as usize, (offset % 128) as u32);
            bits[word] |= known << shift;
            if shift > 0 {
                bits[word + 1] |= known >> (128 - shift);
            }
            offset += u64::from(mask.count_ones());
        }
    }
    bits
}

/// 128 bits from bit `offset`.
fn bits_at(bits: &[u128], offset: u64) -> u128 {
    let (word, shift) = ((offset / 128) as usize, (offset % 128) as u32);
    let low = bits.get(word).copied().unwrap_or(0) >> shift;
    if shift == 0 { low } else { low | bits.get(word + 1).copied().unwrap_or(0) << (128 - shift) }
}

/// The host, or a copy of a stream, reads or writes a range; `frees`: it is gone afterwards.
fn touch(from: u64, bytes: u64, writes: bool, frees: bool) {
    let pages = Pages::global();
    let Some(source) = ACTING.with(|acting| Option::clone(&**acting.borrow())) else {
        if writes && bytes > 0 {
            for (at, count) in pieces(from, bytes) {
                pages.lock(at).forget(at, count);
            }
        }
        return;
    };
    let mut known: HashMap<u32, bool> = HashMap::new();
    let mut found: HashMap<(u32, u32), (Note, u64, u64)> = HashMap::new();
    let mut comes_after = |other: u32| {
        *known.entry(other).or_insert_with(|| {
            let other = site::source(other).and_then(|other| other.order.clone());
            other.zip(source.order.as_ref()).is_none_or(|(other, order)| site::before(&other, order))
        })
    };
    for (at, count) in pieces(from, bytes) {
        let mut page = pages.lock(at);
        for (line, mask) in super::pages::lines(at, count) {
            let note = Note::new(source.id, (0, 0, 0), 0, Lanes::Unknown, (writes, false), mask);
            let relation = |old: &Note| match old.source == source.id || comes_after(old.source) {
                true => Relation::Before,
                false => Relation::Apart,
            };
            page.lines[(line % PAGE / LINE) as usize].access(&note, None, relation, |conflict| {
                let address = line + u64::from(conflict.byte);
                let key = (conflict.other.source, conflict.other.site);
                found.entry(key).or_insert((conflict.other, address, 0)).2 += 1;
            });
        }
        if frees {
            page.forget(at, count);
        }
    }
    for (note, address, count) in found.into_values() {
        tell_host(&source, &note, address, count, writes, frees);
    }
}

fn tell_host(source: &Source, note: &Note, address: u64, count: u64, writes: bool, frees: bool) {
    let Some(other) = site::source(note.source) else { return };
    let lane = note.lanes.of((address % LINE) as u32);
    let place = other.spot(At { block: note.block, warp: note.warp.into(), lane, site: note.site });
    let host = source.host || other.host;
    let what = if note.writes { "write" } else { "read" };
    let verb = match (frees, writes) {
        (true, _) => "freeing",
        (_, true) => "writing",
        _ => "reading",
    };
    let by = if other.kernel.is_some() { "a kernel" } else { "other work" };
    Findings::global().record(Finding {
        kind: if host { "host-race" } else { "race-streams" },
        message: format!("{verb} memory that {by} {what}s: no event, stream order or synchronisation is between"),
        at: Spot { label: source.label.clone(), ..Spot::default() },
        other: Some(Other { what: what.to_owned(), at: place }),
        allocation: tell::allocation(address),
        count,
        seed: other.seed,
        shrunk: None,
    });
}

/// Records what the host has done wrong with memory: a double free, an access out of bounds, …
pub(crate) fn memory_error(error: &MemoryError, label: &str) {
    if !super::is_checked() {
        return;
    }
    let kind = match error {
        MemoryError::AlreadyFreed { .. } => "double-free",
        MemoryError::UseAfterFree { .. } => "use-after-free",
        MemoryError::OutOfBounds { .. } => "out-of-bounds",
        _ => return,
    };
    Findings::global().record(Finding {
        kind,
        message: error.to_string(),
        at: Spot { label: label.to_owned(), ..Spot::default() },
        ..Finding::default()
    });
}

/// What the program should have freed: not variables of modules, nor memory of its own that it registered.
fn is_leak(allocation: &Allocation) -> bool {
    let host = matches!(allocation.kind, AllocationKind::Pinned | AllocationKind::Managed);
    starts_undefined(allocation.kind) || host && !allocation.serial_label.starts_with("variable ")
}

/// Says whether nothing is queued any more that might free memory.
static IDLE: OnceLock<fn() -> bool> = OnceLock::new();

/// A launch has ended with a fault, after which a program can free nothing.
static FAULTED: AtomicBool = AtomicBool::new(false);

/// Who queues work says how to ask whether any is left.
pub(crate) fn ask_whether_idle(idle: fn() -> bool) {
    let _ = IDLE.set(idle);
}

/// A launch has ended with a fault.
pub(crate) fn faulted() {
    FAULTED.store(true, Ordering::Relaxed);
}

/// As [`leaks`], when the process ends, for contexts that are still there.
pub(crate) fn leaks_at_exit() {
    if IDLE.get().is_some_and(|idle| idle()) {
        leaks();
    }
}

/// Records memory that was never freed.
pub(crate) fn leaks() {
    leaks_among(|_| true);
}

/// Records memory that was never freed, of those allocations whose first addresses are asked for.
pub(crate) fn leaks_among(asked: impl Fn(u64) -> bool) {
    if !super::is_checked() || FAULTED.load(Ordering::Relaxed) {
        return;
    }
    let leaked = |allocation: &Allocation| is_leak(allocation) && asked(allocation.base);
    for allocation in Memory::global().allocations().into_iter().filter(leaked) {
        Findings::global().record(Finding {
            kind: "leak",
            message: format!("{} bytes have not been freed", allocation.bytes),
            at: Spot { label: allocation.serial_label.clone(), ..Spot::default() },
            allocation: Some(AllocationNote {
                address: allocation.base,
                base: allocation.base,
                bytes: allocation.bytes,
                space: "global".into(),
                label: allocation.serial_label,
            }),
            ..Finding::default()
        });
    }
}
