//! What atomics run: lane after lane, in one step each.

use super::cell::Cell;
use crate::{
    machine::{
        lanes::Lane,
        launch::mix,
        op::{Exec, Flow, Op, Run, Slot, conjure, free},
        warp::Warp,
    },
    memory::{PARAM_WINDOW, SHARED_WINDOW},
    ops::memory::{
        AccessOp, OpSpace,
        layout::{Layout, Pointers, pointer, resolve_any},
    },
};

/// A type that atomics work on, kept in memory as [`Self::Word`].
pub(super) trait Atomic: Lane {
    type Word: Cell;
    fn from_word(word: Self::Word) -> Self;
    fn into_word(self) -> Self::Word;
}

macro_rules! atomics {
    ($($ty:ty as $word:ty: |$from:ident| $value:expr, |$into:ident| $bits:expr;)*) => {$(
        impl Atomic for $ty {
            type Word = $word;
            #[inline(always)]
            fn from_word($from: $word) -> Self { $value }
            #[inline(always)]
            fn into_word(self) -> $word { let $into = self; $bits }
        }
    )*};
}

atomics! {
    u16 as u16: |word| word, |value| value;
    u32 as u32: |word| word, |value| value;
    i32 as u32: |word| word as i32, |value| value as u32;
    u64 as u64: |word| word, |value| value;
    i64 as u64: |word| word as i64, |value| value as u64;
    u128 as u128: |word| word, |value| value;
    f32 as u32: |word| f32::from_bits(word), |value| value.to_bits();
    f64 as u64: |word| f64::from_bits(word), |value| value.to_bits();
    half::f16 as u16: |word| half::f16::from_bits(word), |value| value.to_bits();
    half::bf16 as u16: |word| half::bf16::from_bits(word), |value| value.to_bits();
    [u16; 2] as u32: |word| [word as u16, (word >> 16) as u16], |value| u32::from(value[0]) | u32::from(value[1]) << 16;
}

/// Whether an address is in global memory: anything else is seen by this thread only.
fn is_global(warp: &Warp, op: &Op, lane: usize) -> bool {
    match AccessOp(op.y).space() {
        OpSpace::Global => true,
        OpSpace::Generic => {
            // SAFETY: generic addresses have 64 bits.
            let address = unsafe { warp.lanes::<u64>(op.a) }[lane].wrapping_add(op.imm);
            !(SHARED_WINDOW..PARAM_WINDOW).contains(&address)
        }
        _ => false,
    }
}

/// The active lanes in the order in which they have their turns: ascending, or drawn by the launch's seed.
fn turns(warp: &Warp) -> ([u8; 32], usize) {
    let mut order: [u8; 32] = std::array::from_fn(|lane| lane as u8);
    if let Some(seed) = warp.running().launch.options.seed {
        let mut state = seed ^ warp.clock.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(warp.index) << 56;
        for at in (1..32usize).rev() {
            order.swap(at, (mix(&mut state) % (at as u64 + 1)) as usize);
        }
    }
    let mut count = 32;
    if warp.mask != u32::MAX {
        count = 0;
        for at in 0..32 {
            let lane = order[at];
            order[count] = lane;
            count += (warp.mask >> lane & 1) as usize;
        }
    }
    (order, count)
}

/// What one step makes of a word; returns what it was.
///
/// # Safety
/// `pointer` is valid and aligned for the word.
#[inline(always)]
unsafe fn update<W: Cell>(pointer: *mut W, global: bool, mut f: impl FnMut(W) -> W) -> W {
    // SAFETY: the caller's contract; shared memory belongs to one thread at a time.
    unsafe {
        if global {
            return W::update(pointer, f);
        }
        let old = pointer.read();
        pointer.write(f(old));
        old
    }
}

/// Runs `step(lane, k, old, in global memory)` on element `k` of `N` for each active lane in its turn, each in one step,
/// and writes what they were into the results' slots.
///
/// # Safety
/// `results` are slots of T.
#[inline(always)]
unsafe fn each_lane<T: Atomic, const N: usize>(
    warp: &mut Warp,
    op: &Op,
    results: &[Slot],
    step: impl Fn(usize, usize, T::Word, bool) -> T::Word,
) -> Flow {
    let width = size_of::<T::Word>();
    let count = results.len().min(N);
    let bytes = (width * count) as u64;
    let mut pointers = Pointers::uninit();
    let layout = resolve_any(warp, op, op.a, AccessOp(op.y), bytes, &mut pointers);
    let (order, active) = turns(warp);
    let order = &order[..active];
    let mut old = [[T::Stored::default(); 32]; N];
    let mut changed = false;
    match layout {
        Layout::Fault => return Flow::Fault,
        // All at once: nobody else comes in between, which is one of the orders that may be.
        Layout::Same(at) => {
            let global = is_global(warp, op, warp.leader());
            for k in 0..count {
                let mut differs = false;
                let all = |start: T::Word| {
                    differs = false;
                    order.iter().fold(start, |word, &lane| {
                        let lane = usize::from(lane) & 31;
                        old[k][lane] = T::from_word(word).store();
                        let next = step(lane, k, word, global);
                        differs |= next != word;
                        next
                    })
                };
                // SAFETY: the pointer is good for all elements.
                unsafe { update(at.add(k * width).cast::<T::Word>(), global, all) };
                changed |= differs;
            }
        }
        Layout::Row(_) | Layout::Scattered => {
            for &lane in order {
                let lane = usize::from(lane) & 31;
                let global = is_global(warp, op, lane);
                // SAFETY: the layout is no fault; each pointer is good for all elements.
                let at = unsafe { pointer(layout, &pointers, lane, bytes) } as *mut T::Word;
                for k in 0..count {
                    // SAFETY: as above.
                    let word = unsafe { update(at.add(k), global, |word| step(lane, k, word, global)) };
                    changed |= step(lane, k, word, global) != word;
                    old[k][lane] = T::from_word(word).store();
                }
            }
        }
    }
    // Nothing came of it: a lock that is taken, or a value looked at again and again.
    if !changed {
        warp.spinning += 1;
    }
    if let Some(monitor) = warp.monitor() {
        monitor.performed();
        if changed {
            monitor.changed();
        }
    }
    for (slot, old) in results.iter().zip(&old) {
        // SAFETY: the caller's contract.
        unsafe { warp.write::<T>(*slot, old) };
    }
    Flow::Next
}

/// `f(old, operand, in global memory)`, for `x` elements.
pub(super) fn modify<T: Atomic, F: Fn(T, T, bool) -> T + Copy>(_: F) -> Exec {
    let run: Run = modify_elements::<T, F>;
    run.into()
}

unsafe fn modify_elements<T: Atomic, F: Fn(T, T, bool) -> T + Copy>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: the caller's contract.
    unsafe {
        match op.x {
            1 => modify_some::<T, F, 1>(warp, op),
            _ => modify_some::<T, F, 8>(warp, op),
        }
    }
}

#[inline(always)]
unsafe fn modify_some<T: Atomic, F: Fn(T, T, bool) -> T + Copy, const N: usize>(warp: &mut Warp, op: &Op) -> Flow {
    let function = conjure::<F>();
    // SAFETY: the list holds `x` operands and `x` results of T.
    unsafe {
        let (sources, results) = warp.wide(op).split_at(op.x as usize);
        let operands: [&[T::Stored; 32]; N] =
            std::array::from_fn(|k| warp.lanes::<T>(sources[k.min(sources.len() - 1)]));
        each_lane::<T, N>(warp, op, results, |lane, k, old, global| {
            function(T::from_word(old), T::load(operands[k][lane]), global).into_word()
        })
    }
}

/// The kinds of replacement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Swap {
    Exchange,
    Compare,
}

pub(super) fn swap<T: Atomic<Word = T> + Cell>(kind: Swap) -> Exec {
    match kind {
        Swap::Exchange => modify(|_: T, new: T, _| new),
        Swap::Compare => free(|warp, op| compare_and_swap::<T>(warp, op)),
    }
}

/// `[a]` becomes `c` where it was `b`.
fn compare_and_swap<T: Atomic<Word = T> + Cell>(warp: &mut Warp, op: &Op) -> Flow {
    // SAFETY: `b` and `c` are slots of T, and the list holds the result's.
    unsafe {
        let (wanted, new) = (warp.lanes::<T>(op.b), warp.lanes::<T>(op.c));
        let results = warp.wide(op);
        each_lane::<T, 1>(
            warp,
            op,
            results,
            |lane, _, old, _| {
                if old == T::load(wanted[lane]) { T::load(new[lane]) } else { old }
            },
        )
    }
}
