//! The CPU twin: a block of gathered rows stays in the cache while the weight streams by.

#[cfg(test)]
mod tests;

use super::{MergeNorm, PatchGatherOperands, PatchGatherSpec, PatchMergeOperands, PatchMergeSpec};
use crate::context::{Disjoint, cut, scratch_bytes};
use crate::epilogue::{EpilogueOperands, Region, apply};
use crate::gemm::{PANEL, PackedMatrix, tile};
use crate::rows::normalize_row;
use crate::{Context, Element, Epilogue, Isa};
use std::ops::Range;

/// Cache that a block of gathered rows may take: half of a second-level cache, the other half is for the weight.
const BLOCK_BYTES: usize = 1 << 20;

/// Rows of a block at most: more do not use the weight better.
const MAX_BLOCK_ROWS: usize = 256;

/// f32 values of a tile of the product.
const PRODUCT_TILE: usize = 1 << 16;

/// Elements between gathered rows, so that they do not fall on the same cache sets.
const ROW_GAP: usize = 32;

/// Neighbours side by side, see [`PatchGatherSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn patch_gather<T: Element>(context: &mut Context, spec: &PatchGatherSpec, operands: PatchGatherOperands<'_, T>) {
    let PatchGatherOperands { x, out } = operands;
    let gather = Gather::new(spec, x);
    let width = 4 * spec.channels;
    assert_eq!(out.len(), gather.rows() * width, "the gathered map");
    let blocks = cut(gather.rows(), gather.rows().div_ceil(MAX_BLOCK_ROWS).max(context.threads()), 1);
    let out = Disjoint::new(out);
    context.parallel(blocks.len(), 0, |index, _| {
        let block = blocks[index].clone();
        // SAFETY: blocks do not overlap.
        let out = unsafe { out.slice(block.start * width, block.len() * width) };
        for (row, out) in block.zip(out.chunks_exact_mut(width)) {
            gather.row(row, out);
        }
    });
}

/// Gather, norm and product, see [`PatchMergeSpec`].
///
/// # Panics
/// If operands do not have the sizes that the spec says.
pub fn patch_merge<T: Element>(context: &mut Context, spec: &PatchMergeSpec, operands: PatchMergeOperands<'_, T>) {
    let PatchMergeOperands { x, norm, weight, out } = operands;
    let PatchMergeSpec { batch, input, channels, norm: place, eps } = *spec;
    let gather = Gather::new(&PatchGatherSpec { batch, input, channels }, x);
    let normed = if place == MergeNorm::Before { 4 * channels } else { 2 * channels };
    assert_eq!((norm.0.len(), norm.1.len()), (normed, normed), "the norm's γ and β");
    assert_eq!((weight.n(), weight.k()), (2 * channels, 4 * channels), "the weight");
    assert_eq!(out.len(), gather.rows() * 2 * channels, "the merged map");
    let merge = Merge { isa: context.isa(), gather, place, eps, norm, weight, out: Disjoint::new(out) };
    let (rows, stride, threads) = (merge.gather.rows(), merge.stride(), context.threads());

    let block_rows = (BLOCK_BYTES / (stride * size_of::<T>())).clamp(1, MAX_BLOCK_ROWS);
    let blocks = cut(rows, rows.div_ceil(block_rows).next_multiple_of(threads), 1);
    let largest = blocks.first().map_or(0, Range::len);
    if threads == 1 || place == MergeNorm::After || largest * 2 > block_rows {
        let bytes = scratch_bytes::<T>(largest * stride) + merge.task_bytes(largest);
        context.parallel(blocks.len(), bytes, |index, mut scratch| {
            let block = blocks[index].clone();
            let gathered = scratch.take::<T>(block.len() * stride);
            merge.gather(block.clone(), gathered, scratch.take::<T>(4 * channels));
            let products = scratch.take::<f32>(merge.products(block.len()));
            // SAFETY: blocks do not overlap.
            unsafe { merge.multiply(block, 0..2 * channels, gathered, products) };
        });
        return;
    }
    // Few rows: each thread would read the whole weight for a small block. Gather first, then share out the columns.
    context.with_shared(scratch_bytes::<T>(rows * stride), |context, mut shared| {
        let gathered = shared.take::<T>(rows * stride);
        let blocks = cut(rows, 4 * threads, 1);
        let target = Disjoint::new(&mut *gathered);
        context.parallel(blocks.len(), scratch_bytes::<T>(4 * channels), |index, mut scratch| {
            let block = blocks[index].clone();
            // SAFETY: blocks do not overlap.
            let gathered = unsafe { target.slice(block.start * stride, block.len() * stride) };
            merge.gather(block, gathered, scratch.take::<T>(4 * channels));
        });
        let blocks = cut(rows, rows.div_ceil(block_rows), 1);
        let columns = cut(2 * channels, (4 * threads).div_ceil(blocks.len()), 2 * PANEL);
        let bytes = merge.task_bytes(blocks.first().map_or(0, Range::len));
        context.parallel(blocks.len() * columns.len(), bytes, |index, mut scratch| {
            let block = blocks[index / columns.len()].clone();
            let products = scratch.take::<f32>(merge.products(block.len()));
            let gathered = &gathered[block.start * stride..block.end * stride];
            // SAFETY: no two tasks have both a row and a column in common.
            unsafe { merge.multiply(block, columns[index % columns.len()].clone(), gathered, products) };
        });
    });
}

/// The gather of [`PatchGatherSpec`], row by row.
struct Gather<'a, T> {
    spec: PatchGatherSpec,
    x: &'a [T],
}

impl<'a, T: Element> Gather<'a, T> {
    fn new(spec: &PatchGatherSpec, x: &'a [T]) -> Self {
        assert_eq!(x.len(), spec.batch * spec.input[0] * spec.input[1] * spec.channels, "x");
        Self { spec: *spec, x }
    }

    /// Output pixels of the batch.
    fn rows(&self) -> usize {
        let [height, width] = self.spec.output();
        self.spec.batch * height * width
    }

    /// The 4C values of output pixel `row`.
    fn row(&self, row: usize, out: &mut [T]) {
        let PatchGatherSpec { input: [height, width], channels, .. } = self.spec;
        let [rows, columns] = self.spec.output();
        let (image, y, x) = (row / (rows * columns), row / columns % rows, row % columns);
        let neighbours = [(0, 0), (1, 0), (0, 1), (1, 1)];
        for ((down, right), out) in neighbours.into_iter().zip(out.chunks_exact_mut(channels)) {
            let (y, x) = (2 * y + down, 2 * x + right);
            if y < height && x < width {
                out.copy_from_slice(&self.x[((image * height + y) * width + x) * channels..][..channels]);
            } else {
                out.fill(T::default());
            }
        }
    }
}

/// One call: what all tasks share.
struct Merge<'a, T: Element> {
    isa: Isa,
    gather: Gather<'a, T>,
    place: MergeNorm,
    eps: f32,
    norm: (&'a [f32], &'a [f32]),
    weight: &'a PackedMatrix,
    out: Disjoint<'a, T>,
}

impl<T: Element> Merge<'_, T> {
    /// From one gathered row to the next.
    fn stride(&self) -> usize {
        4 * self.gather.spec.channels + ROW_GAP
    }

    /// f32 values of a tile of the product for a block of at most `rows` rows: a few columns, or with a norm of the product a
    /// few rows.
    fn products(&self, rows: usize) -> usize {
        (rows * PANEL).max(2 * self.gather.spec.channels).max(PRODUCT_TILE)
    }

    /// Scratch of a task on at most `rows` rows, without the gathered rows.
    fn task_bytes(&self, rows: usize) -> usize {
        scratch_bytes::<T>(4 * self.gather.spec.channels) + scratch_bytes::<f32>(self.products(rows))
    }

    /// Gathers the rows of a block, normed if the norm comes first; `raw` has room for one row.
    fn gather(&self, block: Range<usize>, gathered: &mut [T], raw: &mut [T]) {
        for (row, out) in block.zip(gathered.chunks_exact_mut(self.stride())) {
            let out = &mut out[..raw.len()];
            match self.place {
                MergeNorm::Before => {
                    self.gather.row(row, raw);
                    normalize_row(self.isa, raw, self.norm.0, self.norm.1, self.eps, out);
                }
                MergeNorm::After => self.gather.row(row, out),
            }
        }
    }

    /// Some columns of the product of a block's gathered rows; with a norm of the product all columns.
    ///
    /// # Safety
    /// Nobody else uses those rows and columns of the output meanwhile.
    unsafe fn multiply(&self, block: Range<usize>, columns: Range<usize>, gathered: &[T], products: &mut [f32]) {
        let n = 2 * self.gather.spec.channels;
        let norm = (self.place == MergeNorm::After).then_some(self.eps);
        let epilogue = Epilogue { norm, ..Epilogue::default() };
        let operands = EpilogueOperands { norm: norm.map(|_| self.norm), ..EpilogueOperands::default() };
        let (rows, width) = match self.place {
            MergeNorm::Before => (block.len(), (products.len() / block.len() / PANEL * PANEL).min(columns.len())),
            MergeNorm::After => ((products.len() / n).min(block.len()), n),
        };
        for row in block.clone().step_by(rows) {
            let rows = rows.min(block.end - row);
            let gathered = &gathered[(row - block.start) * self.stride()..];
            for column in columns.clone().step_by(width) {
                let columns = column..(column + width).min(columns.end);
                let weight = self.weight.view();
                tile(self.isa, rows, gathered, self.stride(), weight, columns.clone(), products, width, false);
                let region = Region { row, rows, column, columns: columns.len(), n };
                // SAFETY: as the caller promises.
                unsafe { apply(self.isa, &epilogue, &operands, region, products, width, &self.out) };
            }
        }
    }
}
