//! What every kernel call gets beside its operands: threads, instruction set and scratch memory.

use crate::{Isa, Pool};
use std::cell::UnsafeCell;

/// Threads, instruction set and per-thread scratch. One context runs one kernel at a time.
pub struct Context {
    pool: Pool,
    isa: Isa,
    scratch: Vec<ScratchSlot>,
    shared: Vec<CacheLine>,
}

/// One worker's scratch buffer; 64-byte aligned through its element type.
#[derive(Default)]
struct ScratchSlot(UnsafeCell<Vec<CacheLine>>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([u8; 64]);

// SAFETY: a slot is only touched by the worker whose index it has, see `Context::parallel`.
unsafe impl Sync for ScratchSlot {}

/// The scratch memory of one worker during one task: 64-byte aligned, uninitialised in meaning (holds old values).
pub struct Scratch<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Scratch<'a> {
    /// Takes the next `len` elements, aligned to 64 bytes.
    ///
    /// # Panics
    /// If the task asked for less memory than it takes: a bug in the kernel's `scratch_bytes`.
    pub fn take<T: bytemuck::Pod>(&mut self, len: usize) -> &'a mut [T] {
        let bytes = scratch_bytes::<T>(len);
        let rest = std::mem::take(&mut self.bytes);
        assert!(bytes <= rest.len(), "scratch of {} bytes left, {bytes} wanted", rest.len());
        let (head, tail) = rest.split_at_mut(bytes);
        self.bytes = tail;
        &mut bytemuck::cast_slice_mut(head)[..len]
    }
}

/// What `len` elements of `T` take in a scratch buffer, with padding to whole cache lines.
pub const fn scratch_bytes<T>(len: usize) -> usize {
    (len * size_of::<T>()).next_multiple_of(64)
}

/// Cuts 0..n into at most `parts` ranges of about the same length, a multiple of `unit` but for the last.
pub fn cut(n: usize, parts: usize, unit: usize) -> Vec<std::ops::Range<usize>> {
    let length = n.div_ceil(parts.max(1)).next_multiple_of(unit);
    (0..n).step_by(length.max(1)).map(|start| start..(start + length).min(n)).collect()
}

impl Context {
    /// A context with `threads` threads (at least one, the caller's included).
    ///
    /// # Panics
    /// If this CPU lacks `isa`; [`Isa::available`] lists what it has.
    pub fn new(threads: usize, isa: Isa) -> Self {
        assert!(isa.is_available(), "{isa:?} is not available on this CPU");
        let pool = Pool::new(threads);
        let scratch = (0..pool.threads()).map(|_| ScratchSlot::default()).collect();
        Self { pool, isa, scratch, shared: Vec::new() }
    }

    /// Instruction set all kernels of this context use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs `task(i, scratch)` for i in 0..tasks over all threads and returns when all are done. Each call gets
    /// `scratch_bytes` of scratch (sum of [`scratch_bytes`] over what it takes).
    ///
    /// Which thread runs which task is not fixed, so a task's result must depend on its number alone.
    pub fn parallel(&mut self, tasks: usize, scratch_bytes: usize, task: impl Fn(usize, Scratch<'_>) + Sync) {
        let lines = scratch_bytes.div_ceil(64);
        let scratch = &self.scratch;
        self.pool.run(tasks, &|index, worker| {
            // SAFETY: `Pool::run` gives each worker index to one thread at a time, `&mut self` keeps a second
            // `parallel` of this context away, and the slice dies with the task.
            let lines_vec = unsafe { &mut *scratch[worker].0.get() };
            if lines_vec.len() < lines {
                lines_vec.resize(lines, CacheLine([0; 64]));
            }
            // SAFETY: `CacheLine` is 64 plain bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(lines_vec.as_mut_ptr().cast::<u8>(), lines_vec.len() * 64) };
            task(index, Scratch { bytes });
        });
    }

    /// Calls `kernel` with `scratch_bytes` of scratch that belongs to no worker: for what one [`Context::parallel`] leaves to
    /// the next within a kernel.
    pub fn with_shared<R>(&mut self, scratch_bytes: usize, kernel: impl FnOnce(&mut Self, Scratch<'_>) -> R) -> R {
        let mut shared = std::mem::take(&mut self.shared);
        let lines = scratch_bytes.div_ceil(64);
        if shared.len() < lines {
            shared.resize(lines, CacheLine([0; 64]));
        }
        // SAFETY: `CacheLine` is 64 plain bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(shared.as_mut_ptr().cast::<u8>(), shared.len() * 64) };
        let result = kernel(self, Scratch { bytes });
        self.shared = shared;
        result
    }

    /// Bytes of scratch held by all threads.
    pub fn scratch_held(&mut self) -> usize {
        let slots: usize = self.scratch.iter_mut().map(|slot| slot.0.get_mut().len()).sum();
        (slots + self.shared.len()) * 64
    }
}

/// A mutable slice that several tasks write, each its own part.
///
/// Row-tile kernels hand disjoint rows to their tasks; the borrow checker cannot see that they are disjoint.
#[derive(Clone, Copy)]
pub struct Disjoint<'a, T> {
    data: *mut T,
    len: usize,
    life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` is used through `slice`, whose contract forbids overlapping use.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Wraps a slice for the time of one parallel run.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { data: slice.as_mut_ptr(), len: slice.len(), life: std::marker::PhantomData }
    }

    /// Where the memory begins.
    pub fn as_ptr(&self) -> *const T {
        self.data
    }

    /// The same memory as elements of `U`.
    ///
    /// # Panics
    /// If U has another size or alignment.
    pub fn cast<U>(&self) -> Disjoint<'a, U>
    where
        T: bytemuck::Pod,
        U: bytemuck::Pod,
    {
        assert!(size_of::<T>() == size_of::<U>() && align_of::<T>() == align_of::<U>());
        Disjoint { data: self.data.cast(), len: self.len, life: std::marker::PhantomData }
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// No two live slices taken from the same `Disjoint` overlap.
    ///
    /// # Panics
    /// If the range is not inside the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start}+{len} outside {}", self.len);
        // SAFETY: in bounds by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
