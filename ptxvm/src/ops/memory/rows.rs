//! Values of one type in memory, and in the lanes of a register; vectors turned from rows into registers.

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

/// Whether `N` values of `E` per lane are moved by the vectors of [`words`].
const fn in_vectors<E: Moved>(n: usize) -> bool {
    cfg!(target_arch = "x86_64") && matches!((size_of::<E>(), n), (4, 2 | 4) | (8, 2))
}

/// Reads `N` values of every lane into registers, or what is like them: 32 words each.
///
/// # Safety
/// The layout must have been resolved for accesses of `N` values, and `out` be good for 32 words each.
#[inline(always)]
pub(super) unsafe fn gather<E: Moved, const N: usize>(layout: Layout, pointers: &Pointers, out: [*mut E::Stored; N]) {
    // SAFETY: the caller's contract: every pointer is good for N values. Other threads may write there meanwhile, as on a
    // device; whole aligned words are read either way.
    unsafe {
        match layout {
            Layout::Row(start) => {
                let start = start.cast::<E>();
                if N == 1 {
                    let mut values = [E::Stored::default(); 32];
                    for lane in 0..32 {
                        values[lane] = start.add(lane).read_unaligned().widen();
                    }
                    return out[0].cast::<[E::Stored; 32]>().write(values);
                }
                #[cfg(target_arch = "x86_64")]
                if in_vectors::<E>(N) {
                    return words::gather::<E, N>(|lane| start.add(lane * N), out);
                }
                for lane in 0..32 {
                    for k in 0..N {
                        out[k].add(lane).write(start.add(lane * N + k).read_unaligned().widen());
                    }
                }
            }
            Layout::Same(at) => {
                let at = at.cast::<E>();
                for k in 0..N {
                    out[k].cast::<[E::Stored; 32]>().write([at.add(k).read_unaligned().widen(); 32]);
                }
            }
            Layout::Scattered => {
                let pointers = &pointers.assume_init_ref().0;
                #[cfg(target_arch = "x86_64")]
                if in_vectors::<E>(N) {
                    return words::gather::<E, N>(|lane| pointers[lane] as *const E, out);
                }
                let mut values = [[E::Stored::default(); 32]; N];
                for lane in 0..32 {
                    let at = pointers[lane] as *const E;
                    for k in 0..N {
                        values[k][lane] = at.add(k).read_unaligned().widen();
                    }
                }
                for k in 0..N {
                    out[k].cast::<[E::Stored; 32]>().write(values[k]);
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
            Layout::Row(start) if mask == u32::MAX => write_row::<E, N>(start.cast(), values),
            Layout::Row(start) => write_part_of_row::<E, N>(start.cast(), mask, values),
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
                    if in_vectors::<E>(N) {
                        return words::scatter::<E, N>(|lane| pointers[lane] as *mut E, values);
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

/// # Safety
/// `start` is good for `N` values of all lanes.
#[inline(always)]
unsafe fn write_row<E: Moved, const N: usize>(start: *mut E, values: [&[E::Stored; 32]; N]) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if in_vectors::<E>(N) {
            return words::scatter::<E, N>(|lane| start.add(lane * N), values);
        }
        if N == 1 {
            let values = values[0];
            for lane in 0..32 {
                start.add(lane).write_unaligned(E::narrow(values[lane]));
            }
            return;
        }
        for lane in 0..32 {
            for k in 0..N {
                start.add(lane * N + k).write_unaligned(E::narrow(values[k][lane]));
            }
        }
    }
}

/// A row of which some lanes only are written: run after run of them.
///
/// # Safety
/// `start` is good for `N` values of the lanes of the mask.
unsafe fn write_part_of_row<E: Moved, const N: usize>(start: *mut E, mask: u32, values: [&[E::Stored; 32]; N]) {
    let mut row = [[E::default(); N]; 32];
    // SAFETY: the row has room for all lanes; memory is good for those of the mask, of which each run is made.
    unsafe {
        write_row::<E, N>(row.as_mut_ptr().cast(), values);
        let mut left = mask;
        while left != 0 {
            let lane = left.trailing_zeros();
            let run = (!(left >> lane)).trailing_zeros();
            left &= !((u32::MAX >> (32 - run)) << lane);
            let (lane, run) = (lane as usize, run as usize);
            std::ptr::copy_nonoverlapping(row.as_ptr().add(lane).cast(), start.wrapping_add(lane * N), run * N);
        }
    }
}

/// Words and pairs of words per lane, turned a few lanes at a time. SSE2 is part of x86-64, so every tier has this.
#[cfg(target_arch = "x86_64")]
mod words {
    use super::Moved;
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
    /// `E` and `N` are those of [`super::in_vectors`], each pointer is good for N of E, `out` for 32 each.
    #[inline(always)]
    pub(super) unsafe fn gather<E: Moved, const N: usize>(
        pointer: impl Fn(usize) -> *const E,
        out: [*mut E::Stored; N],
    ) {
        let lanes = 16 / size_of::<E>();
        for first in (0..32).step_by(lanes) {
            let at = |lane: usize| pointer(first + lane);
            // SAFETY: the caller's contract; E is as wide as its register's words.
            unsafe {
                let store = |k: usize, value: __m128i| _mm_storeu_si128(out[k].add(first).cast(), value);
                match (size_of::<E>(), N) {
                    (4, 2) => {
                        let [a, b, c, d] = [0, 1, 2, 3].map(|lane| _mm_loadl_epi64(at(lane).cast()));
                        let (low, high) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
                        store(0, _mm_unpacklo_epi64(low, high));
                        store(1, _mm_unpackhi_epi64(low, high));
                    }
                    (4, _) => {
                        let rows = [0, 1, 2, 3].map(|lane| _mm_loadu_si128(at(lane).cast()));
                        for (k, column) in transpose(rows).into_iter().enumerate() {
                            store(k, column);
                        }
                    }
                    _ => {
                        let [a, b] = [0, 1].map(|lane| _mm_loadu_si128(at(lane).cast()));
                        store(0, _mm_unpacklo_epi64(a, b));
                        store(1, _mm_unpackhi_epi64(a, b));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`gather`].
    #[inline(always)]
    pub(super) unsafe fn scatter<E: Moved, const N: usize>(
        pointer: impl Fn(usize) -> *mut E,
        values: [&[E::Stored; 32]; N],
    ) {
        let lanes = 16 / size_of::<E>();
        for first in (0..32).step_by(lanes) {
            let at = |lane: usize| pointer(first + lane);
            // SAFETY: the caller's contract; E is as wide as its register's words.
            unsafe {
                let load = |k: usize| _mm_loadu_si128(values[k].as_ptr().add(first).cast());
                match (size_of::<E>(), N) {
                    (4, 2) => {
                        let (low, high) = (_mm_unpacklo_epi32(load(0), load(1)), _mm_unpackhi_epi32(load(0), load(1)));
                        for (k, pair) in [low, high].into_iter().enumerate() {
                            _mm_storel_epi64(at(2 * k).cast(), pair);
                            _mm_storeh_pd(at(2 * k + 1).cast(), _mm_castsi128_pd(pair));
                        }
                    }
                    (4, _) => {
                        let columns = [load(0), load(1), load(2), load(3)];
                        for (lane, value) in transpose(columns).into_iter().enumerate() {
                            _mm_storeu_si128(at(lane).cast(), value);
                        }
                    }
                    _ => {
                        _mm_storeu_si128(at(0).cast(), _mm_unpacklo_epi64(load(0), load(1)));
                        _mm_storeu_si128(at(1).cast(), _mm_unpackhi_epi64(load(0), load(1)));
                    }
                }
            }
        }
    }
}
