//! Products whose first operand is read column by column or row by row where it lies: `Aᵀ·B` and `A·B` of matrices that
//! are made and used once, so that packing them would cost more than it saves.

use crate::Element;
use crate::Isa;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch_fma};

/// Terms of a sum that are added one after another; longer chains lose accuracy.
const MAX_DEPTH: usize = 128;

/// A of [`multiply`]: element (i, r) lies at `i · row + r · depth`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row: usize,
    pub(crate) depth: usize,
}

/// `c[i, j] (+)= Σ_r a[i, r] · b[r, j]` for i in 0..m, r in 0..depth, j in 0..n; B and C are rows with their strides.
///
/// With `accumulate` the product is added to C, else it overwrites. The order in which r is summed depends on `depth` alone.
///
/// # Panics
/// If a slice is too short.
pub(crate) fn multiply<T: Element>(
    isa: Isa,
    [m, depth, n]: [usize; 3],
    a: Left<'_>,
    (b, ldb): (&[T], usize),
    (c, ldc): (&mut [f32], usize),
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(ldc >= n && (m - 1) * ldc + n <= c.len(), "C [{m}, {n}] with stride {ldc} in {}", c.len());
    if depth > 0 {
        let last = (m - 1) * a.row + (depth - 1) * a.depth;
        assert!(last < a.values.len(), "A [{m}, {depth}] with strides {}, {} in {}", a.row, a.depth, a.values.len());
        assert!(ldb >= n && (depth - 1) * ldb + n <= b.len(), "B [{depth}, {n}] with stride {ldb} in {}", b.len());
    }
    let (b, c) = (b.as_ptr(), c.as_mut_ptr());
    let a = Source { values: a.values.as_ptr(), row: a.row, depth: a.depth };
    dispatch_fma(isa, Multiply { m, depth, n, a, b, ldb, c, ldc, accumulate });
}

/// [`Left`] without its length.
#[derive(Clone, Copy)]
struct Source {
    values: *const f32,
    row: usize,
    depth: usize,
}

struct Multiply<T> {
    m: usize,
    depth: usize,
    n: usize,
    a: Source,
    b: *const T,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
}

impl<T: Element> Kernel for Multiply<T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { m, depth, n, a, b, ldb, c, ldc, accumulate } = self;
        // Where products are rounded before they are added, sums must be shorter to be as accurate.
        let deepest = if V::FUSED { MAX_DEPTH } else { MAX_DEPTH / 2 };
        let mut column = 0;
        while column < n {
            let columns = (n - column).min(2 * V::LANES);
            let max_rows = if columns <= V::LANES || V::REGISTERS >= 32 { 12 } else { 6 };
            let mut start = 0;
            // A depth of zero is one piece, so that C is cleared.
            loop {
                let length = deepest.min(depth - start);
                let mut row = 0;
                for left in (1..=m.div_ceil(max_rows)).rev() {
                    let rows = (m - row).div_ceil(left);
                    // SAFETY: `multiply` has checked the sizes; the block lies inside them.
                    unsafe {
                        let block = Block {
                            depth: length,
                            a: a.values.wrapping_add(row * a.row + start * a.depth),
                            a_row: a.row,
                            a_depth: a.depth,
                            b: b.wrapping_add(start * ldb + column),
                            ldb,
                            columns,
                            c: c.add(row * ldc + column),
                            ldc,
                            accumulate: accumulate || start > 0,
                        };
                        by_rows::<V, T>(rows, block);
                    }
                    row += rows;
                }
                start += length;
                if start == depth {
                    break;
                }
            }
            column += columns;
        }
    }
}

/// Some rows of C by at most two vectors of columns, and a piece of the depth.
#[derive(Clone, Copy)]
struct Block<T> {
    depth: usize,
    a: *const f32,
    a_row: usize,
    a_depth: usize,
    b: *const T,
    ldb: usize,
    columns: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
}

/// Picks the micro-kernel for a block's shape.
///
/// # Safety
/// The block is valid for that many rows.
#[inline(always)]
unsafe fn by_rows<V: Vector, T: Element>(rows: usize, block: Block<T>) {
    macro_rules! pick {
        ($nv:literal: $($mr:literal)*) => {
            match rows {
                // SAFETY: as the caller promises.
                $($mr => unsafe { micro::<V, T, $mr, $nv>(block) },)*
                _ => unreachable!("rows are cut into strips"),
            }
        };
    }
    if block.columns <= V::LANES {
        pick!(1: 1 2 3 4 5 6 7 8 9 10 11 12);
    } else if V::REGISTERS >= 32 {
        pick!(2: 1 2 3 4 5 6 7 8 9 10 11 12);
    } else {
        pick!(2: 1 2 3 4 5 6);
    }
}

/// `MR` rows by `NV` vectors, the last of which may be cut off.
///
/// # Safety
/// The block is valid for the shape.
#[inline(always)]
unsafe fn micro<V: Vector, T: Element, const MR: usize, const NV: usize>(block: Block<T>) {
    let Block { depth, mut a, a_row, a_depth, mut b, ldb, columns, c, ldc, accumulate } = block;
    let last = columns - (NV - 1) * V::LANES;
    let mut sums = [[V::zero(); NV]; MR];
    for _ in 0..depth {
        // SAFETY: one step of the depth, in A's columns and B's rows.
        unsafe {
            let mut vectors = [V::zero(); NV];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = load(b.add(v * V::LANES), if v + 1 == NV { last } else { V::LANES });
            }
            for i in 0..MR {
                let value = V::splat(*a.add(i * a_row));
                for v in 0..NV {
                    sums[i][v] = value.mul_add(vectors[v], sums[i][v]);
                }
            }
        }
        a = a.wrapping_add(a_depth);
        b = b.wrapping_add(ldb);
    }
    for i in 0..MR {
        for v in 0..NV {
            let count = if v + 1 == NV { last } else { V::LANES };
            // SAFETY: inside C's rows and columns.
            unsafe {
                let to = c.add(i * ldc + v * V::LANES);
                let sum = if accumulate { sums[i][v].add(load(to.cast_const(), count)) } else { sums[i][v] };
                store(sum, to, count);
            }
        }
    }
}
