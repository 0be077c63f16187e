//! What atomics run: lane after lane, in one step each.

use super::cell::Cell;
use crate::{
    machine::{
        lanes::Lane,
        launch::mix,
        op::{Exec, Flow, Op, Run, conjure, free},
        warp::Warp,
    },
    memory::{PARAM_WINDOW, SHARED_WINDOW},
    ops::memory::{AccessOp, OpSpace, pointers_of},
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

/// Whether a lane's address is in global memory: anything else is seen by this thread only.
fn is_global(access: AccessOp, address: impl FnOnce() -> u64) -> bool {
    match access.space() {
        OpSpace::Global => true,
        OpSpace::Generic => !(SHARED_WINDOW..PARAM_WINDOW).contains(&address()),
        _ => false,
    }
}

/// The order in which lanes have their turns: ascending, or drawn by the launch's seed.
fn turns(warp: &Warp) -> [u8; 32] {
    let mut order: [u8; 32] = std::array::from_fn(|lane| lane as u8);
    if let Some(seed) = warp.running().launch.options.seed {
        let mut state = seed ^ warp.clock.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(warp.index) << 56;
        for at in (1..32usize).rev() {
            order.swap(at, (mix(&mut state) % (at as u64 + 1)) as usize);
        }
    }
    order
}

/// Runs `step` for each active lane in its turn: it gets the lane, its pointer and whether that is global memory, and
/// says whether memory has changed.
#[inline(always)]
fn each_lane(warp: &mut Warp, op: &Op, bytes: u64, mut step: impl FnMut(&mut Warp, usize, u64, bool) -> bool) -> Flow {
    let access = AccessOp(op.y);
    let pointers = match pointers_of(warp, op, op.a, access, bytes) {
        Ok(pointers) => pointers,
        Err(flow) => return flow,
    };
    // Addresses are read before anything is written: a result may go where the address was.
    let mut global = [true; 32];
    for (lane, global) in global.iter_mut().enumerate() {
        *global = is_global(access, || {
            // SAFETY: generic addresses have 64 bits.
            let addresses = unsafe { warp.lanes::<u64>(op.a) };
            addresses[lane].wrapping_add(op.imm)
        });
    }
    let mut changed = false;
    for lane in turns(warp) {
        let lane = usize::from(lane);
        if warp.mask >> lane & 1 != 0 {
            changed |= step(warp, lane, pointers[lane], global[lane]);
        }
    }
    // Nothing came of it: a lock that is taken, or a value looked at again and again.
    if !changed {
        warp.spinning += 1;
    } else if let Some(monitor) = warp.monitor() {
        monitor.changed();
    }
    Flow::Next
}

/// What one step makes of a word; returns what it was.
///
/// # Safety
/// `pointer` is valid and aligned for the word.
#[inline(always)]
unsafe fn update<W: Cell>(pointer: *mut W, global: bool, f: impl Fn(W) -> W) -> W {
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

/// `f(old, operand, in global memory)`, for `x` elements.
pub(super) fn modify<T: Atomic, F: Fn(T, T, bool) -> T + Copy>(_: F) -> Exec {
    let run: Run = modify_elements::<T, F>;
    run.into()
}

unsafe fn modify_elements<T: Atomic, F: Fn(T, T, bool) -> T + Copy>(warp: &mut Warp, op: &Op) -> Flow {
    let function = conjure::<F>();
    let count = op.x as usize;
    let width = size_of::<T::Word>() as u64;
    // SAFETY: the list holds `count` operands and `count` results of T.
    let slots = unsafe { warp.wide(op) };
    let mut results = [[T::Stored::default(); 32]; 8];
    let flow = each_lane(warp, op, width * count as u64, |warp, lane, pointer, global| {
        let mut changed = false;
        for k in 0..count {
            // SAFETY: as above; the pointer is good for all elements.
            unsafe {
                let operand = T::load(warp.lanes::<T>(slots[k])[lane]);
                let at = (pointer + k as u64 * width) as *mut T::Word;
                let step = |old: T::Word| function(T::from_word(old), operand, global).into_word();
                let old = update(at, global, step);
                changed |= step(old) != old;
                results[k][lane] = T::from_word(old).store();
            }
        }
        changed
    });
    if flow == Flow::Next {
        for k in 0..count {
            // SAFETY: as above.
            unsafe { warp.write::<T>(slots[count + k], &results[k]) };
        }
    }
    flow
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
    let mut results = [T::Stored::default(); 32];
    let flow = each_lane(warp, op, size_of::<T>() as u64, |warp, lane, pointer, global| {
        // SAFETY: `b` and `c` are slots of T; the pointer is good for one.
        unsafe {
            let wanted = T::load(warp.lanes::<T>(op.b)[lane]);
            let new = T::load(warp.lanes::<T>(op.c)[lane]);
            let old = update(pointer as *mut T, global, |old| if old == wanted { new } else { old });
            results[lane] = old.store();
            old == wanted && new != old
        }
    });
    if flow == Flow::Next {
        // SAFETY: the list holds the result's slot.
        unsafe {
            let slots = warp.wide(op);
            warp.write::<T>(slots[0], &results);
        }
    }
    flow
}
