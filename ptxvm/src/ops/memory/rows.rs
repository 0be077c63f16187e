//! Values of one type in memory, and in the lanes of a register; vectors of four words turned from rows into registers.

use super::layout::{Layout, Pointers};

/// A value that is moved as it is: `stored` is the word that its register has per lane.
pub(super) trait Moved: Copy + Default + 'static {
    type Stored: Copy + Default + 'static;
    fn widen(self) -> Self::Stored;
    fn narrow(stored: Self::Stored) -> Self;
}

macro_rules! moved {
    ($($ty:ty as $stored:ty;)*) => {$(
        impl Moved for $ty {
            type Stored = $stored;
            #[inline(always)]
            fn widen(self) -> $stored { self as $stored }
            #[inline(always)]
            fn narrow(stored: $stored) -> Self { stored as $ty }
        }
    )*};
}

moved! {
    u8 as u32;
    u16 as u32;
    u32 as u32;
    u64 as u64;
    u128 as u128;
}

/// Reads `N` values of every lane.
///
/// # Safety
/// The layout must have been resolved for accesses of `N` values.
#[inline(always)]
pub(super) unsafe fn gather<E: Moved, const N: usize>(
    layout: Layout,
    pointers: &Pointers,
    out: &mut [[E::Stored; 32]; N],
) {
    // SAFETY: the caller's contract: every pointer is good for N values. Other threads may write there meanwhile, as on a
    // device; whole aligned words are read either way.
    unsafe {
        match layout {
            Layout::Row(start) => {
                let start = start.cast::<E>();
                #[cfg(target_arch = "x86_64")]
                if N == 4 && size_of::<E>() == 4 {
                    return words::gather(|lane| start.add(lane * 4).cast(), out.as_mut_ptr().cast());
                }
                for lane in 0..32 {
                    for k in 0..N {
                        out[k][lane] = start.add(lane * N + k).read_unaligned().widen();
                    }
                }
            }
            Layout::Same(at) => {
                let at = at.cast::<E>();
                for k in 0..N {
                    out[k] = [at.add(k).read_unaligned().widen(); 32];
                }
            }
            Layout::Scattered => {
                let pointers = &pointers.assume_init_ref().0;
                #[cfg(target_arch = "x86_64")]
                if N == 4 && size_of::<E>() == 4 {
                    return words::gather(|lane| pointers[lane] as *const u32, out.as_mut_ptr().cast());
                }
                for lane in 0..32 {
                    let at = pointers[lane] as *const E;
                    for k in 0..N {
                        out[k][lane] = at.add(k).read_unaligned().widen();
                    }
                }
            }
            Layout::Fault => {}
        }
    }
}

/// Writes `N` values of every lane of the mask.
///
/// # Safety
/// As [`gather`].
#[inline(always)]
pub(super) unsafe fn scatter<E: Moved, const N: usize>(
    layout: Layout,
    pointers: &Pointers,
    mask: u32,
    values: [&[E::Stored; 32]; N],
) {
    // SAFETY: as in `gather`.
    unsafe {
        match layout {
            Layout::Row(start) => {
                let start = start.cast::<E>();
                #[cfg(target_arch = "x86_64")]
                if N == 4 && size_of::<E>() == 4 {
                    let rows = [values[0], values[1], values[2], values[3]].map(|row| row.as_ptr().cast());
                    return words::scatter(|lane| start.add(lane * 4).cast(), rows);
                }
                for lane in 0..32 {
                    for k in 0..N {
                        start.add(lane * N + k).write_unaligned(E::narrow(values[k][lane]));
                    }
                }
            }
            Layout::Same(at) => {
                // Which lane's value stays is not defined; here it is the last one's.
                let lane = (31 - mask.leading_zeros()) as usize & 31;
                for k in 0..N {
                    at.cast::<E>().add(k).write_unaligned(E::narrow(values[k][lane]));
                }
            }
            Layout::Scattered => {
                let pointers = &pointers.assume_init_ref().0;
                if mask == u32::MAX {
                    #[cfg(target_arch = "x86_64")]
                    if N == 4 && size_of::<E>() == 4 {
                        let rows = [values[0], values[1], values[2], values[3]].map(|row| row.as_ptr().cast());
                        return words::scatter(|lane| pointers[lane] as *mut u32, rows);
                    }
                    for lane in 0..32 {
                        let at = pointers[lane] as *mut E;
                        for k in 0..N {
                            at.add(k).write_unaligned(E::narrow(values[k][lane]));
                        }
                    }
                    return;
                }
                let mut left = mask;
                while left != 0 {
                    let lane = left.trailing_zeros() as usize & 31;
                    left &= left - 1;
                    let at = pointers[lane] as *mut E;
                    for k in 0..N {
                        at.add(k).write_unaligned(E::narrow(values[k][lane]));
                    }
                }
            }
            Layout::Fault => {}
        }
    }
}

/// Four words per lane, turned four lanes at a time. SSE is part of x86-64, so every tier has this.
#[cfg(target_arch = "x86_64")]
mod words {
    use std::arch::x86_64::*;

    #[inline(always)]
    unsafe fn transpose(rows: [__m128i; 4]) -> [__m128i; 4] {
        let [a, b, c, d] = rows;
        // SAFETY: SSE2 is always there.
        unsafe {
            let (low_ab, high_ab) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
            let (low_cd, high_cd) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
            [
                _mm_unpacklo_epi64(low_ab, low_cd),
                _mm_unpackhi_epi64(low_ab, low_cd),
                _mm_unpacklo_epi64(high_ab, high_cd),
                _mm_unpackhi_epi64(high_ab, high_cd),
            ]
        }
    }

    /// # Safety
    /// Each pointer is good for 16 bytes, `out` for 4 × 32 words.
    #[inline(always)]
    pub(super) unsafe fn gather(pointer: impl Fn(usize) -> *const u32, out: *mut u32) {
        for group in 0..8 {
            // SAFETY: the caller's contract.
            unsafe {
                let rows = [0, 1, 2, 3].map(|lane| _mm_loadu_si128(pointer(group * 4 + lane).cast()));
                for (k, column) in transpose(rows).into_iter().enumerate() {
                    _mm_storeu_si128(out.add(k * 32 + group * 4).cast(), column);
                }
            }
        }
    }

    /// # Safety
    /// Each pointer is good for 16 bytes, each row for 32 words.
    #[inline(always)]
    pub(super) unsafe fn scatter(pointer: impl Fn(usize) -> *mut u32, rows: [*const u32; 4]) {
        for group in 0..8 {
            // SAFETY: the caller's contract.
            unsafe {
                let columns = rows.map(|row| _mm_loadu_si128(row.add(group * 4).cast()));
                for (lane, value) in transpose(columns).into_iter().enumerate() {
                    _mm_storeu_si128(pointer(group * 4 + lane).cast(), value);
                }
            }
        }
    }
}
