//! Words of memory that are changed in one step.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
};

/// A word that can be changed in one step.
pub(super) trait Cell: Copy + Eq {
    /// Replaces the word by what `f` makes of it, in one step that other threads cannot come between; returns what it
    /// was.
    ///
    /// # Safety
    /// `pointer` is valid and aligned.
    unsafe fn update(pointer: *mut Self, f: impl FnMut(Self) -> Self) -> Self;
}

macro_rules! cells {
    ($($ty:ty as $atomic:ty;)*) => {$(
        impl Cell for $ty {
            #[inline(always)]
            unsafe fn update(pointer: *mut Self, mut f: impl FnMut(Self) -> Self) -> Self {
                // SAFETY: the caller's contract.
                let atomic = unsafe { <$atomic>::from_ptr(pointer) };
                let mut old = atomic.load(Ordering::Relaxed);
                loop {
                    match atomic.compare_exchange_weak(old, f(old), Ordering::SeqCst, Ordering::Relaxed) {
                        Ok(old) => return old,
                        Err(found) => old = found,
                    }
                }
            }
        }
    )*};
}

cells! {
    u16 as AtomicU16;
    u32 as AtomicU32;
    u64 as AtomicU64;
}

impl Cell for u128 {
    unsafe fn update(pointer: *mut Self, mut f: impl FnMut(Self) -> Self) -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("cmpxchg16b") {
            // SAFETY: the caller's contract. What is read first need not be whole: it is compared in one step.
            let mut old = unsafe { pointer.read_volatile() };
            loop {
                // SAFETY: the caller's contract, and the instruction is there.
                let found = unsafe { exchange(pointer, old, f(old)) };
                if found == old {
                    return old;
                }
                old = found;
            }
        }
        // Without such an instruction all of them take turns.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's contract.
        unsafe {
            let old = pointer.read_volatile();
            pointer.write_volatile(f(old));
            old
        }
    }
}

/// Puts `new` where `old` is; returns what was there.
///
/// # Safety
/// The machine has the instruction, and the pointer is valid and aligned.
#[cfg(target_arch = "x86_64")]
unsafe fn exchange(pointer: *mut u128, old: u128, new: u128) -> u128 {
    let (mut low, mut high) = (old as u64, (old >> 64) as u64);
    // SAFETY: the caller's contract. The compiler keeps `rbx` for itself, so it is put back.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            in("rdi") pointer,
            inout("rsi") new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") low,
            inout("rdx") high,
            options(nostack),
        );
    }
    u128::from(low) | u128::from(high) << 64
}
