//! Gradient of a product's weight, on the CPU. The gradient of its data is a product itself: by the weight the other way round
//! ([`PlainWeight::Columns`](super::plain::PlainWeight::Columns)).
//!
//! `d_weight[n, k] += Σ_m d_out[m, n] · x[m, k]`, `d_bias[n] += Σ_m d_out[m, n]`. FLOPs 2·rows·n·k.
//!
//! The matrix is cut into tiles and, where those are few, rows into parts, by shape alone. A task goes through the rows of its part
//! in blocks: its columns of d_out are transposed and those of x packed in scratch, so that a block is a product of tiles like any
//! other, and sums stay in the cache. Tiles are added to the gradient, or kept and added in the order of their parts.

use super::{PANEL, pack_columns, packed_len, tile};
use crate::context::{Disjoint, scratch_bytes};
use crate::gradient::{Gradient, add_partials, put};
use crate::rows::load;
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Context, Element, Isa};
use std::ops::Range;

/// Values that a block of x should stay below.
const BLOCK: usize = 1 << 16;

/// Columns of d_out of a task at most. Transposing costs the more the fewer columns of x there are, packing the more the fewer these are;
/// with both at most, a task's sums take half a MiB.
const COLUMNS: usize = 256;

/// Columns of x of a task at most, where they can be had apart.
const X_COLUMNS: usize = 512;

/// Values of all parts' matrices together, at most, as long as there are two parts.
const PARTIAL: usize = 1 << 21;

/// Parts at most.
const MAX_PARTS: usize = 16;

/// Rows of a part at least: fewer are not worth a matrix of their own.
const MIN_ROWS: usize = 256;

/// Tasks that there should be at least, so that threads share them evenly.
const TASKS: usize = 8;

/// Operands of one call.
pub struct GemmWeightOperands<'a, T: Element> {
    /// [rows, k]
    pub x: &'a [T],
    /// [rows, n]
    pub d_out: &'a [T],
    /// [n, k], added to.
    pub d_weight: Option<&'a mut [f32]>,
    /// `[n]`, added to.
    pub d_bias: Option<&'a mut [f32]>,
}

/// Adds up the gradients of weight and bias of a product of [rows, k] by [n, k].
///
/// # Panics
/// If an operand's length is not what the sizes say.
pub fn gemm_weight<T: Element>(
    ctx: &mut Context,
    rows: usize,
    n: usize,
    k: usize,
    operands: GemmWeightOperands<'_, T>,
) {
    let GemmWeightOperands { x, d_out, d_weight, d_bias } = operands;
    assert_eq!(x.len(), rows * k, "x");
    weight_gradient(ctx, [rows, n, k], &InPlace { x, k }, d_out, d_weight, d_bias);
}

/// Where the rows of x come from: memory, or a gather.
pub(crate) trait RowSource<T>: Sync {
    /// Distance of rows.
    fn stride(&self) -> usize;
    /// Elements of scratch for that many rows.
    fn scratch_len(&self, rows: usize) -> usize;
    /// The rows `range`, [`RowSource::stride`] apart.
    fn rows<'s>(&'s self, isa: Isa, range: Range<usize>, scratch: &'s mut [T]) -> &'s [T];
}

struct InPlace<'a, T> {
    x: &'a [T],
    k: usize,
}

impl<T: Element> RowSource<T> for InPlace<'_, T> {
    fn stride(&self) -> usize {
        self.k
    }

    fn scratch_len(&self, _: usize) -> usize {
        0
    }

    fn rows<'s>(&'s self, _: Isa, range: Range<usize>, _: &'s mut [T]) -> &'s [T] {
        &self.x[range.start * self.k..range.end * self.k]
    }
}

/// How the work is cut: by shape alone, so that results do not depend on threads.
struct Cut {
    /// Rows of a block.
    block: usize,
    /// Rows of a part, whole blocks.
    part: usize,
    parts: usize,
    /// Columns of d_out of a task, whole panels.
    columns: usize,
    column_tasks: usize,
    /// Columns of x of a task, whole panels.
    x_columns: usize,
    x_tasks: usize,
}

impl Cut {
    /// `whole`: a task takes all columns of x.
    fn new([rows, n, k]: [usize; 3], whole: bool) -> Cut {
        let even = |len: usize, pieces: usize| len.div_ceil(pieces).next_multiple_of(PANEL);
        let x_columns = if whole { k } else { even(k, k.div_ceil(X_COLUMNS)) };
        let x_tasks = k.div_ceil(x_columns);
        let tiles = n.div_ceil(COLUMNS) * x_tasks;
        let block = (BLOCK / x_columns).clamp(32, 128) / 32 * 32;
        let parts = match tiles {
            TASKS.. => 1,
            _ => (PARTIAL / (n * k)).clamp(2, MAX_PARTS).min(rows / MIN_ROWS).max(1),
        };
        let part = rows.div_ceil(parts).next_multiple_of(block);
        let parts = rows.div_ceil(part);
        let column_tasks = n.div_ceil(COLUMNS).max(TASKS.div_ceil(parts * x_tasks).min(n.div_ceil(4 * PANEL)));
        let columns = even(n, column_tasks);
        Cut { block, part, parts, columns, column_tasks: n.div_ceil(columns), x_columns, x_tasks }
    }
}

/// [`gemm_weight`] over rows from anywhere.
pub(crate) fn weight_gradient<T: Element>(
    ctx: &mut Context,
    [rows, n, k]: [usize; 3],
    source: &impl RowSource<T>,
    d_out: &[T],
    d_weight: Option<&mut [f32]>,
    d_bias: Option<&mut [f32]>,
) {
    assert_eq!(d_out.len(), rows * n, "d_out");
    assert!(d_weight.as_deref().is_none_or(|d| d.len() == n * k), "d_weight");
    assert!(d_bias.as_deref().is_none_or(|d| d.len() == n), "d_bias");
    if rows == 0 || n == 0 || k == 0 || (d_weight.is_none() && d_bias.is_none()) {
        return;
    }
    let gathered = source.scratch_len(1) > 0;
    let Cut { block, part, parts, columns, column_tasks, x_columns, x_tasks } = Cut::new([rows, n, k], gathered);
    let isa = ctx.isa();
    let alone = parts == 1;
    let (with_weight, with_bias) = (d_weight.is_some(), d_bias.is_some());
    let partial_len = if with_weight && !alone { parts * n * k } else { 0 };
    let bias_len = if with_bias { parts * n } else { 0 };
    ctx.with_shared(scratch_bytes::<f32>(partial_len) + scratch_bytes::<f32>(bias_len), |ctx, mut shared| {
        let partial = shared.take::<f32>(partial_len);
        let bias = shared.take::<f32>(bias_len);
        let mut d_weight = d_weight;
        {
            let matrices = match &mut d_weight {
                Some(d_weight) if alone => Gradient::add_to(d_weight),
                _ => Gradient::overwrite(&mut *partial),
            };
            let matrices = matrices.share();
            let bias = Disjoint::new(&mut *bias);
            let (gathered, packed) = (source.scratch_len(block), packed_len::<T>(x_columns, block));
            let scratch = scratch_bytes::<T>(gathered)
                + scratch_bytes::<T>(packed)
                + scratch_bytes::<T>(columns * block)
                + scratch_bytes::<f32>(columns * x_columns);
            ctx.parallel(parts * column_tasks * x_tasks, scratch, |task, mut scratch| {
                let (tile_index, x_first) = (task / x_tasks, task % x_tasks * x_columns);
                let (index, first) = (tile_index / column_tasks, tile_index % column_tasks * columns);
                let (width, x_width) = (columns.min(n - first), x_columns.min(k - x_first));
                let gathered = scratch.take::<T>(gathered);
                let packed = scratch.take::<T>(packed);
                let turned = scratch.take::<T>(columns * block);
                let c = &mut scratch.take::<f32>(columns * x_columns)[..width * x_width];
                let range = index * part..rows.min((index + 1) * part);
                if with_bias && x_first == 0 {
                    // SAFETY: each task has its own part and columns.
                    let sums = unsafe { bias.slice(index * n + first, width) };
                    dispatch(
                        isa,
                        ColumnSums { x: &d_out[range.start * n + first..], stride: n, rows: range.len(), sums },
                    );
                }
                if !with_weight {
                    return;
                }
                for start in range.clone().step_by(block) {
                    let depth = block.min(range.end - start);
                    let x = source.rows(isa, start..start + depth, gathered);
                    let b = pack_columns(isa, x_width, depth, &x[x_first..], source.stride(), packed);
                    turn(isa, [depth, width], &d_out[start * n + first..], n, turned, block);
                    tile(isa, width, turned, block, b, 0..x_width, c, x_width, start > range.start);
                }
                let to = (if alone { 0 } else { index * n * k } + first * k + x_first, k);
                // SAFETY: each task has its own rows and columns of its own matrix.
                unsafe { matrices.put(isa, (width, x_width), (c, x_width), to) };
            });
        }
        if let (Some(d_weight), false) = (d_weight, alone) {
            add_partials(ctx, partial, d_weight);
        }
        if let Some(d_bias) = d_bias {
            add_partials(ctx, bias, d_bias);
        }
    });
}

/// `to[j, i] = from[i, j]`: `rows` rows of `columns`, `stride` apart, to rows `to_stride` apart.
fn turn<T: Element>(isa: Isa, [rows, columns]: [usize; 2], from: &[T], stride: usize, to: &mut [T], to_stride: usize) {
    assert!(rows == 0 || (rows - 1) * stride + columns <= from.len());
    assert!(rows <= to_stride && columns * to_stride <= to.len());
    dispatch(isa, Turn { rows, columns, from, stride, to, to_stride });
}

struct Turn<'a, T> {
    rows: usize,
    columns: usize,
    from: &'a [T],
    stride: usize,
    to: &'a mut [T],
    to_stride: usize,
}

/// Sixteen by sixteen 4-byte values.
#[repr(align(64))]
struct Block([u32; PANEL * PANEL]);

impl<T: Element> Kernel for Turn<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { rows, columns, from, stride, to, to_stride } = self;
        let (mut block, mut turned) = (Block([0; PANEL * PANEL]), Block([0; PANEL * PANEL]));
        let words = size_of::<u32>() / size_of::<T>();
        let step = PANEL * words;
        for row in (0..rows).step_by(step) {
            let height = step.min(rows - row);
            for column in (0..columns).step_by(PANEL) {
                let width = PANEL.min(columns - column);
                // Sixteen rows of sixteen values, or of sixteen pairs of two rows' values.
                for i in 0..height.div_ceil(words) {
                    let at = (row + i * words) * stride + column;
                    let to = &mut block.0[i * PANEL..][..PANEL];
                    if words == 1 {
                        to[..width].copy_from_slice(bytemuck::cast_slice(&from[at..][..width]));
                    } else {
                        let second = if i * words + 1 < height { &from[at + stride..][..width] } else { &[] };
                        pairs::<V, T>(&from[at..][..width], second, to);
                    }
                }
                // SAFETY: both are blocks.
                unsafe { V::transpose(block.0.as_ptr(), turned.0.as_mut_ptr()) };
                for (j, turned) in turned.0.chunks_exact(PANEL).enumerate().take(width) {
                    let turned: &[T] = bytemuck::cast_slice(turned);
                    to[(column + j) * to_stride + row..][..height].copy_from_slice(&turned[..height]);
                }
            }
        }
    }
}

/// Pairs of bf16 of two rows; where the second ends, zeros.
#[inline(always)]
fn pairs<V: Vector, T: Element>(first: &[T], second: &[T], to: &mut [u32]) {
    for j in (0..PANEL).step_by(V::LANES) {
        let count = |row: &[T]| V::LANES.min(row.len().saturating_sub(j));
        let (counts, to) = ([count(first), count(second)], to[j..].as_mut_ptr());
        // SAFETY: as many elements as the rows have, and LANES of the sixteen pairs.
        unsafe {
            let first: V = if counts[0] == 0 { V::zero() } else { load(first.as_ptr().add(j), counts[0]) };
            let second: V = if counts[1] == 0 { V::zero() } else { load(second.as_ptr().add(j), counts[1]) };
            V::store_bf16_pairs(first, second, to.cast());
        }
    }
}

/// Rows that are summed one after another before the sum joins the others: short chains are accurate.
const CHAIN: usize = 64;

/// Sums of the columns of `rows` rows, `stride` apart; overwrites `sums`.
pub(crate) struct ColumnSums<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) sums: &'a mut [f32],
}

impl<T: Element> Kernel for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { x, stride, rows, sums } = self;
        let n = sums.len();
        assert!(rows == 0 || (rows - 1) * stride + n <= x.len());
        sums.fill(0.0);
        for start in (0..rows).step_by(CHAIN) {
            let end = rows.min(start + CHAIN);
            let mut i = 0;
            while i < n {
                let count = V::LANES.min(n - i);
                // SAFETY: inside the rows by the assertion.
                unsafe {
                    let mut sum = V::zero();
                    for row in start..end {
                        sum = sum.add(load(x.as_ptr().add(row * stride + i), count));
                    }
                    put(sum, sums.as_mut_ptr().add(i), count, true);
                }
                i += count;
            }
        }
    }
}
