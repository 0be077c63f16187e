//! The register-blocked window: one or two rows by [`WIDTH`] columns of output for one vector of channels.

use crate::rows::load;
use crate::simd::Vector;
use crate::{Act, Element};
use std::ops::Range;
use std::sync::atomic::{Ordering, compiler_fence};

/// Output columns of a block. Eight sums, a row of taps and an input vector fit into sixteen registers, twice eight into 32.
pub(super) const WIDTH: usize = 8;

/// Where a block reads. Every input vector is loaded once and used for all taps and output rows that it falls under.
pub(super) struct Source<T> {
    /// Input under the block's first output and first tap. May lie outside the image, where it is not read.
    pub(super) input: *const T,
    /// Elements from one input pixel to the next.
    pub(super) pixel: usize,
    /// Elements from one input row to the next.
    pub(super) row: usize,
    /// First tap of [K, K, ..].
    pub(super) weight: *const f32,
    /// Values from one tap to the next.
    pub(super) tap: usize,
    /// Channels, at most LANES.
    pub(super) lanes: usize,
    /// Input rows under the block (from its first) that are inside the image.
    pub(super) rows: Range<usize>,
    /// Input columns under the block (from its first) that are inside the image.
    pub(super) columns: Range<usize>,
}

/// Sums of a block, starting at `bias`: of two rows with `TWO`, else of the first only.
///
/// `WHOLE` promises that all columns are inside and all lanes are channels.
///
/// # Safety
/// Input and taps that are inside are readable.
#[inline(always)]
pub(super) unsafe fn sums<V: Vector, T: Element, const K: usize, const S: usize, const TWO: bool, const WHOLE: bool>(
    source: &Source<T>,
    bias: V,
) -> [[V; WIDTH]; 2] {
    let mut sums = [[bias; WIDTH]; 2];
    // Input row r lies under kernel row r of the first output row and under kernel row r − S of the second.
    let Range { start, end } = source.rows;
    // SAFETY: the caller's promise: kernel rows stay below K.
    unsafe {
        if TWO {
            for r in start..end.min(S) {
                row::<V, T, K, S, true, false, WHOLE>(source, r, &mut sums);
            }
            for r in start.max(S)..end.min(K) {
                row::<V, T, K, S, true, true, WHOLE>(source, r, &mut sums);
            }
            for r in start.max(K)..end {
                row::<V, T, K, S, false, true, WHOLE>(source, r, &mut sums);
            }
        } else {
            for r in start..end {
                row::<V, T, K, S, true, false, WHOLE>(source, r, &mut sums);
            }
        }
    }
    sums
}

/// Adds what input row `r` gives to the `FIRST` and to the `SECOND` output row.
///
/// # Safety
/// As [`sums`]; kernel row r (of the first) and r − S (of the second) exist.
#[inline(always)]
unsafe fn row<
    V: Vector,
    T: Element,
    const K: usize,
    const S: usize,
    const FIRST: bool,
    const SECOND: bool,
    const WHOLE: bool,
>(
    source: &Source<T>,
    r: usize,
    sums: &mut [[V; WIDTH]; 2],
) {
    // Keeps the compiler from loading the vectors of several rows in advance, for which there are no registers.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the caller's promise; vectors outside the image are loaded as no lanes at all.
    unsafe {
        let mut taps = [[V::zero(); K]; 2];
        for (j, tap) in taps[0].iter_mut().enumerate().filter(|_| FIRST) {
            let at = source.weight.add((r * K + j) * source.tap);
            *tap = if WHOLE { V::load(at) } else { load(at, source.lanes) };
        }
        for (j, tap) in taps[1].iter_mut().enumerate().filter(|_| SECOND) {
            let at = source.weight.add(((r - S) * K + j) * source.tap);
            *tap = if WHOLE { V::load(at) } else { load(at, source.lanes) };
        }
        let input = source.input.wrapping_add(r * source.row);
        for x in 0..(WIDTH - 1) * S + K {
            let at = input.wrapping_add(x * source.pixel);
            let value: V = if WHOLE {
                V::load_as(at)
            } else if source.columns.contains(&x) {
                load(at, source.lanes)
            } else {
                V::zero()
            };
            for j in 0..K {
                if x >= j && (x - j) % S == 0 && (x - j) / S < WIDTH {
                    let p = (x - j) / S;
                    if FIRST {
                        sums[0][p] = value.mul_add(taps[0][j], sums[0][p]);
                    }
                    if SECOND {
                        sums[1][p] = value.mul_add(taps[1][j], sums[1][p]);
                    }
                }
            }
        }
    }
}

/// Applies `act` to a row of sums. Which one is asked once, so that the vectors' latencies overlap.
#[inline(always)]
pub(super) fn activate<V: Vector>(act: Act, sums: &mut [V; WIDTH]) {
    match act {
        Act::Identity => {}
        Act::Relu => each(Act::Relu, sums),
        Act::HardSwish => each(Act::HardSwish, sums),
        Act::Silu => each(Act::Silu, sums),
        act => each(act, sums),
    }
}

#[inline(always)]
fn each<V: Vector>(act: Act, sums: &mut [V; WIDTH]) {
    for sum in sums {
        *sum = act.apply(*sum);
    }
}
