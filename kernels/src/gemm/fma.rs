//! Micro-kernels on fused multiply-add, for every tier: f32, and bf16 widened to f32.
//!
//! A block of `NV` vectors of columns by `MR` rows of C stays in registers over the whole depth. B comes from its panels
//! (one cache line per panel and k), A is broadcast straight from its rows. Rows are cut into strips of equal height, so
//! that 49 rows (a window) are seven strips of seven and not six of eight and one of one.

use super::core::{PANEL, Product};
use crate::simd::{Kernel, Vector, dispatch_fma};
use crate::{Isa, bf16};
use std::mem::MaybeUninit;

/// Depth of a piece at most: three or four panels of it stay in the first-level cache while the strips go by. Above all,
/// pieces keep sums short: a chain of additions loses accuracy with its length, and libtorch's are short too.
const MAX_DEPTH: usize = 64;

/// Rows of a strip at most.
const MAX_ROWS: usize = 8;

/// k per turn of the inner loop: addresses are counted up seldom, as that takes the ports that FMAs run on.
const UNROLL: usize = 4;

/// Bytes of a panel row: sixteen f32 or sixteen pairs of bf16.
const PANEL_ROW: usize = PANEL * size_of::<f32>();

/// f32 product.
///
/// # Safety
/// The sizes in `product` are right.
pub(super) unsafe fn f32_tile(isa: Isa, product: Product<'_, f32>) {
    dispatch_fma(isa, F32Tile(product));
}

/// bf16 product by widening.
///
/// # Safety
/// The sizes in `product` are right.
pub(super) unsafe fn bf16_tile(isa: Isa, product: Product<'_, bf16>) {
    dispatch_fma(isa, Bf16Tile(product));
}

struct F32Tile<'a>(Product<'a, f32>);
struct Bf16Tile<'a>(Product<'a, bf16>);

impl Kernel for F32Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Product { m, a, lda, b, columns, c, ldc, accumulate } = self.0;
        let mut blocks = Blocks::new::<V>(m, columns, b.k());
        while let Some(block) = blocks.next::<V>() {
            // SAFETY: whoever made the product checked its sizes; the block lies inside them.
            unsafe {
                let source = Source {
                    k: block.depth,
                    a: a.add(block.row * lda + block.start),
                    lda,
                    b: b.panel(block.column).add(block.start * PANEL * size_of::<f32>()),
                    panel_bytes: b.panel_bytes(),
                };
                micro_shape::<V, Plain>(block.rows, block.panels, source, block.target(c, ldc, accumulate));
            }
        }
    }
}

impl Kernel for Bf16Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Product { m, a, lda, b, columns, c, ldc, accumulate } = self.0;
        let mut wide = [MaybeUninit::<f32>::uninit(); MAX_ROWS * MAX_DEPTH];
        let wide = wide.as_mut_ptr().cast::<f32>();
        let mut blocks = Blocks::new::<V>(m, columns, b.k());
        while let Some(block) = blocks.next::<V>() {
            // SAFETY: whoever made the product checked its sizes; the block lies inside them. `widen` fills the rows of
            // `wide` up to the even depth that the micro-kernel reads.
            unsafe {
                for row in 0..block.rows {
                    widen::<V>(block.depth, a.add((block.row + row) * lda + block.start), wide.add(row * MAX_DEPTH));
                }
                let source = Source {
                    k: block.depth.next_multiple_of(2),
                    a: wide.cast_const(),
                    lda: MAX_DEPTH,
                    b: b.panel(block.column).add(block.start * PANEL * size_of::<bf16>()),
                    panel_bytes: b.panel_bytes(),
                };
                micro_shape::<V, Pairs>(block.rows, block.panels, source, block.target(c, ldc, accumulate));
            }
        }
    }
}

/// Widens `k` values, and a zero behind them if k is odd.
///
/// # Safety
/// `from` is valid for k reads, `to` for k writes rounded up to even.
#[inline(always)]
unsafe fn widen<V: Vector>(k: usize, from: *const bf16, to: *mut f32) {
    let mut i = 0;
    // SAFETY: whole vectors lie inside k, the tail is masked.
    unsafe {
        while i + V::LANES <= k {
            V::load_bf16(from.add(i)).store(to.add(i));
            i += V::LANES;
        }
        if i < k {
            V::load_bf16_partial(from.add(i), k - i)
                .store_partial(to.add(i), (k - i).next_multiple_of(2).min(V::LANES));
        }
    }
}

/// A block of C: `rows` rows from `row`, `columns` columns (in `panels` panels) from column `column` of B, which is
/// column `offset` of C; and the piece `start..start + depth` of k.
#[derive(Clone, Copy)]
struct Block {
    row: usize,
    rows: usize,
    column: usize,
    offset: usize,
    columns: usize,
    panels: usize,
    start: usize,
    depth: usize,
}

impl Block {
    /// # Safety
    /// `c` is the C that the blocks were cut from.
    #[inline(always)]
    unsafe fn target(&self, c: *mut f32, ldc: usize, accumulate: bool) -> Target {
        // SAFETY: as the caller promises.
        let c = unsafe { c.add(self.row * ldc + self.offset) };
        Target { c, ldc, columns: self.columns, accumulate: accumulate || self.start > 0 }
    }
}

/// Cuts a product into blocks: columns outside, then depth, rows inside, so that a piece of B is used by all rows while it
/// is in the cache. A depth of zero is one piece, so that C is cleared.
struct Blocks {
    m: usize,
    columns: std::ops::Range<usize>,
    k: usize,
    /// Depth of a piece; even, the last is shorter.
    depth: usize,
    panel: usize,
    start: usize,
    row: usize,
    strips_left: usize,
}

impl Blocks {
    #[inline(always)]
    fn new<V: Vector>(m: usize, columns: std::ops::Range<usize>, k: usize) -> Self {
        // Where products are rounded before they are added, sums must be shorter to be as accurate.
        let deepest = if V::FUSED { MAX_DEPTH } else { MAX_DEPTH / 2 };
        let pieces = k.div_ceil(deepest).max(1);
        let depth = k.div_ceil(pieces).next_multiple_of(2);
        Self { m, columns, k, depth, panel: 0, start: 0, row: 0, strips_left: 0 }
    }

    /// Not an `Iterator`: adapters would keep vector code from being inlined.
    #[inline(always)]
    fn next<V: Vector>(&mut self) -> Option<Block> {
        let left = self.columns.len().div_ceil(PANEL) - self.panel;
        if left == 0 {
            return None;
        }
        let panels = if V::LANES == PANEL { block_width(left) } else { 1 };
        if self.row == 0 {
            self.strips_left = self.m.div_ceil(max_rows::<V>(panels));
        }
        let (row, rows) = (self.row, (self.m - self.row).div_ceil(self.strips_left));
        let (start, depth) = (self.start, self.depth.min(self.k - self.start));
        let offset = self.panel * PANEL;
        self.row += rows;
        self.strips_left -= 1;
        if self.row == self.m {
            self.row = 0;
            self.start += depth;
            if self.start == self.k {
                self.start = 0;
                self.panel += panels;
            }
        }
        let columns = (self.columns.len() - offset).min(panels * PANEL);
        Some(Block { row, rows, column: self.columns.start + offset, offset, columns, panels, start, depth })
    }
}

/// Panels of the next block when `left` are left: three or four, as long as none must stand alone at the end.
#[inline(always)]
fn block_width(left: usize) -> usize {
    match (left, left % 3) {
        (1 | 2 | 5, _) => left.min(3),
        (_, 0) => 3,
        _ => 4,
    }
}

/// Rows of a strip at most, so that C's block, B's vectors and a broadcast fit into the registers.
#[inline(always)]
const fn max_rows<V: Vector>(panels: usize) -> usize {
    let vectors = panels * PANEL / V::LANES;
    let rows = (V::REGISTERS - vectors - 1) / vectors;
    if rows < MAX_ROWS { rows } else { MAX_ROWS }
}

/// Where a micro-kernel reads: A's first row, B's first panel.
#[derive(Clone, Copy)]
struct Source {
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const u8,
    panel_bytes: usize,
}

/// Where a micro-kernel writes.
#[derive(Clone, Copy)]
struct Target {
    c: *mut f32,
    ldc: usize,
    columns: usize,
    accumulate: bool,
}

/// How B's panels are stored.
trait Format {
    /// k taken per step.
    const STEP: usize;
    /// The vectors of one step: for each k of the step, `NV` vectors of columns.
    ///
    /// # Safety
    /// `b` points to the panel row of the step; panels are `panel_bytes` apart.
    unsafe fn load<V: Vector, const NV: usize>(b: *const u8, panel_bytes: usize) -> [[V; NV]; 2];
}

/// f32.
struct Plain;
/// bf16 in pairs.
struct Pairs;

impl Format for Plain {
    const STEP: usize = 1;

    #[inline(always)]
    unsafe fn load<V: Vector, const NV: usize>(b: *const u8, panel_bytes: usize) -> [[V; NV]; 2] {
        let per_panel = PANEL / V::LANES;
        let mut vectors = [V::zero(); NV];
        for (v, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: inside the panel row, as the caller promises.
            *vector =
                unsafe { V::load(b.add(v / per_panel * panel_bytes).cast::<f32>().add(v % per_panel * V::LANES)) };
        }
        [vectors, vectors]
    }
}

impl Format for Pairs {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn load<V: Vector, const NV: usize>(b: *const u8, panel_bytes: usize) -> [[V; NV]; 2] {
        let per_panel = PANEL / V::LANES;
        let mut vectors = [[V::zero(); NV]; 2];
        for v in 0..NV {
            // SAFETY: inside the panel row, as the caller promises.
            let (even, odd) = unsafe {
                V::load_bf16_pairs(b.add(v / per_panel * panel_bytes).cast::<bf16>().add(v % per_panel * 2 * V::LANES))
            };
            vectors[0][v] = even;
            vectors[1][v] = odd;
        }
        vectors
    }
}

/// Picks the micro-kernel for a block's shape.
///
/// # Safety
/// Source and target are valid for the shape.
#[inline(always)]
unsafe fn micro_shape<V: Vector, F: Format>(rows: usize, panels: usize, source: Source, target: Target) {
    macro_rules! by_rows {
        ($nv:literal: $($mr:literal)*) => {
            match rows {
                // SAFETY: as the caller promises.
                $($mr => unsafe { micro::<V, F, $mr, $nv>(source, target) },)*
                _ => unreachable!("strips are cut by `max_rows`"),
            }
        };
    }
    match (V::LANES, panels) {
        (16, 4) => by_rows!(4: 1 2 3 4 5 6),
        (16, 3) => by_rows!(3: 1 2 3 4 5 6 7 8),
        (16, 2) => by_rows!(2: 1 2 3 4 5 6 7 8),
        (16, _) => by_rows!(1: 1 2 3 4 5 6 7 8),
        (8, _) => by_rows!(2: 1 2 3 4 5 6),
        _ => by_rows!(4: 1 2 3 4 5 6),
    }
}

/// `MR` rows by `NV` vectors of C.
///
/// # Safety
/// Source and target are valid for the shape.
#[inline(always)]
unsafe fn micro<V: Vector, F: Format, const MR: usize, const NV: usize>(source: Source, target: Target) {
    let Source { k, a, lda, mut b, panel_bytes } = source;
    let mut sums = [[V::zero(); NV]; MR];
    let mut index = 0;
    // SAFETY: index stays below k: in A's rows and B's panels.
    unsafe {
        while index + UNROLL <= k {
            let rows = a.add(index);
            for part in (0..UNROLL).step_by(F::STEP) {
                step::<V, F, MR, NV>(&mut sums, rows.add(part), lda, b.add(part * PANEL_ROW / F::STEP), panel_bytes);
            }
            b = b.add(UNROLL * PANEL_ROW / F::STEP);
            index += UNROLL;
        }
        while index < k {
            step::<V, F, MR, NV>(&mut sums, a.add(index), lda, b, panel_bytes);
            b = b.add(PANEL_ROW);
            index += F::STEP;
        }
    }
    // SAFETY: rows and columns of the target, as the caller promises.
    unsafe { store::<V, MR, NV>(&sums, target) }
}

/// Adds the products of one step of k.
///
/// # Safety
/// `a` points to the step in the first of `MR` rows, `b` to its panel row.
#[inline(always)]
unsafe fn step<V: Vector, F: Format, const MR: usize, const NV: usize>(
    sums: &mut [[V; NV]; MR],
    a: *const f32,
    lda: usize,
    b: *const u8,
    panel_bytes: usize,
) {
    // SAFETY: as the caller promises.
    unsafe {
        let columns = F::load::<V, NV>(b, panel_bytes);
        for l in 0..F::STEP {
            for i in 0..MR {
                let value = V::splat(*a.add(i * lda + l));
                for v in 0..NV {
                    sums[i][v] = value.mul_add(columns[l][v], sums[i][v]);
                }
            }
        }
    }
}

/// Writes or adds the sums of a block.
///
/// # Safety
/// The target is valid for the shape.
#[inline(always)]
unsafe fn store<V: Vector, const MR: usize, const NV: usize>(sums: &[[V; NV]; MR], target: Target) {
    let Target { c, ldc, columns, accumulate } = target;
    for i in 0..MR {
        for v in 0..NV {
            let start = v * V::LANES;
            if start >= columns {
                break;
            }
            let count = V::LANES.min(columns - start);
            // SAFETY: columns start..start + count of row i.
            unsafe {
                let to = c.add(i * ldc + start);
                let mut sum = sums[i][v];
                if count == V::LANES {
                    if accumulate {
                        sum = sum.add(V::load(to));
                    }
                    sum.store(to);
                } else {
                    if accumulate {
                        sum = sum.add(V::load_partial(to, count));
                    }
                    sum.store_partial(to, count);
                }
            }
        }
    }
}
