//! Products whose first operand is read column by column or row by row where it lies: `Aᵀ·B` and `A·B` of matrices that
//! are made and used once, so that packing them would cost more than it saves.

use crate::Element;
use crate::Isa;
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch_fma};

/// Terms of a sum that are added one after another; longer chains lose accuracy.
const MAX_DEPTH: usize = 128;

/// A of [`multiply`], where element (i, r) lies.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// At `i · stride + r`.
    Rows { values: &'a [f32], stride: usize },
    /// At `r · stride + i`.
    Columns { values: &'a [f32], stride: usize },
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
    let (values, stride, [outer, inner]) = match a {
        Left::Rows { values, stride } => (values, stride, [m, depth]),
        Left::Columns { values, stride } => (values, stride, [depth, m]),
    };
    if depth > 0 {
        assert!(
            stride >= inner && (outer - 1) * stride + inner <= values.len(),
            "A [{m}, {depth}] with stride {stride} in {}",
            values.len()
        );
        assert!(ldb >= n && (depth - 1) * ldb + n <= b.len(), "B [{depth}, {n}] with stride {ldb} in {}", b.len());
    }
    let (a_values, b, c) = (values.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    match a {
        Left::Rows { .. } => {
            dispatch_fma(
                isa,
                Multiply::<T, false> { m, depth, n, a: a_values, lda: stride, b, ldb, c, ldc, accumulate },
            );
        }
        Left::Columns { .. } => {
            dispatch_fma(
                isa,
                Multiply::<T, true> { m, depth, n, a: a_values, lda: stride, b, ldb, c, ldc, accumulate },
            );
        }
    }
}

/// A checked call; `COLUMNS`: A is [`Left::Columns`].
struct Multiply<T, const COLUMNS: bool> {
    m: usize,
    depth: usize,
    n: usize,
    a: *const f32,
    lda: usize,
    b: *const T,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
}

/// Rows of a strip at most: columns of A lie side by side and need one address, rows of A need one each.
#[inline(always)]
const fn max_rows<V: Vector, const COLUMNS: bool>(columns: usize) -> usize {
    match (COLUMNS, columns <= V::LANES || V::REGISTERS >= 32) {
        (true, true) => 12,
        (false, true) => 8,
        (_, false) => 6,
    }
}

impl<T: Element, const COLUMNS: bool> Kernel for Multiply<T, COLUMNS> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { m, depth, n, a, lda, b, ldb, c, ldc, accumulate } = self;
        let (row_stride, depth_stride) = if COLUMNS { (1, lda) } else { (lda, 1) };
        // Where products are rounded before they are added, sums must be shorter to be as accurate.
        let deepest = if V::FUSED { MAX_DEPTH } else { MAX_DEPTH / 2 };
        let mut column = 0;
        while column < n {
            let columns = (n - column).min(2 * V::LANES);
            let strips = m.div_ceil(max_rows::<V, COLUMNS>(columns));
            let mut start = 0;
            // A depth of zero is one piece, so that C is cleared.
            loop {
                let length = deepest.min(depth - start);
                let mut row = 0;
                for left in (1..=strips).rev() {
                    let rows = (m - row).div_ceil(left);
                    // SAFETY: `multiply` has checked the sizes; the block lies inside them.
                    unsafe {
                        let block = Block {
                            depth: length,
                            a: a.wrapping_add(row * row_stride + start * depth_stride),
                            lda,
                            b: b.wrapping_add(start * ldb + column),
                            ldb,
                            columns,
                            c: c.add(row * ldc + column),
                            ldc,
                            accumulate: accumulate || start > 0,
                        };
                        by_rows::<V, T, COLUMNS>(rows, block);
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
    lda: usize,
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
unsafe fn by_rows<V: Vector, T: Element, const COLUMNS: bool>(rows: usize, block: Block<T>) {
    macro_rules! pick {
        ($nv:literal, $full:literal: $($mr:literal)*) => {
            match rows {
                // SAFETY: as the caller promises.
                $($mr => unsafe { micro::<V, T, COLUMNS, $full, $mr, $nv>(block) },)*
                _ => unreachable!("rows are cut into strips"),
            }
        };
    }
    let full = block.columns.is_multiple_of(V::LANES);
    match (block.columns <= V::LANES, COLUMNS, V::REGISTERS >= 32) {
        (true, true, _) if full => pick!(1, true: 1 2 3 4 5 6 7 8 9 10 11 12),
        (true, true, _) => pick!(1, false: 1 2 3 4 5 6 7 8 9 10 11 12),
        (true, false, _) if full => pick!(1, true: 1 2 3 4 5 6 7 8),
        (true, false, _) => pick!(1, false: 1 2 3 4 5 6 7 8),
        (false, true, true) if full => pick!(2, true: 1 2 3 4 5 6 7 8 9 10 11 12),
        (false, true, true) => pick!(2, false: 1 2 3 4 5 6 7 8 9 10 11 12),
        (false, false, true) if full => pick!(2, true: 1 2 3 4 5 6 7 8),
        (false, false, true) => pick!(2, false: 1 2 3 4 5 6 7 8),
        (false, _, false) if full => pick!(2, true: 1 2 3 4 5 6),
        (false, _, false) => pick!(2, false: 1 2 3 4 5 6),
    }
}

/// `MR` rows by `NV` vectors, the last of which is cut off unless they are `FULL`.
///
/// # Safety
/// The block is valid for the shape.
#[inline(always)]
unsafe fn micro<V: Vector, T: Element, const COLUMNS: bool, const FULL: bool, const MR: usize, const NV: usize>(
    block: Block<T>,
) {
    let Block { depth, a, lda, b, ldb, columns, c, ldc, accumulate } = block;
    let last = if FULL { V::LANES } else { columns - (NV - 1) * V::LANES };
    let count = |v: usize| if FULL || v + 1 < NV { V::LANES } else { last };
    let mut sums = [[V::zero(); NV]; MR];
    let (mut a, mut b) = (a, b);
    for _ in 0..depth {
        // SAFETY: one step of the depth, in A's columns and B's rows.
        unsafe {
            let mut vectors = [V::zero(); NV];
            for (v, vector) in vectors.iter_mut().enumerate() {
                *vector = load(b.add(v * V::LANES), count(v));
            }
            for i in 0..MR {
                let value = V::splat(*a.add(if COLUMNS { i } else { i * lda }));
                for v in 0..NV {
                    sums[i][v] = value.mul_add(vectors[v], sums[i][v]);
                }
            }
        }
        a = a.wrapping_add(if COLUMNS { lda } else { 1 });
        b = b.wrapping_add(ldb);
    }
    for i in 0..MR {
        for v in 0..NV {
            // SAFETY: inside C's rows and columns.
            unsafe {
                let to = c.add(i * ldc + v * V::LANES);
                let sum = if accumulate { sums[i][v].add(load(to.cast_const(), count(v))) } else { sums[i][v] };
                store(sum, to, count(v));
            }
        }
    }
}
