//! The CPU twin: tiles of output pixels are the tasks. A task gathers the patches of its pixels as rows, multiplies them by
//! the weight and finishes the tile while it is in L2.

pub(super) mod gather;
#[cfg(test)]
mod tests;

use super::{ConvOperands, ConvSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::epilogue::{self, EpilogueOperands, Region};
use crate::gemm::tile;
use crate::{Context, Element, Epilogue, Isa};
use gather::Patches;
use std::ops::Range;

/// What gathered rows and sums of one task should stay below, a part of L2.
const TILE_BYTES: usize = 640 << 10;

/// Pixels of a tile at least, where the map has that many: a weight panel that was loaded must be used often.
const MIN_PIXELS: usize = 64;

/// Pixels of a tile at most.
const MAX_PIXELS: usize = 512;

/// A tile has a multiple of this many pixels: two rows of AMX tiles.
const TILE_ROWS: usize = 32;

/// Channels that a narrow row is widened to for the epilogue, about.
const FOLDED_WIDTH: usize = 256;

/// Runs the kernel.
///
/// # Panics
/// If an operand's length is not what the spec says.
pub fn conv<T: Element>(ctx: &mut Context, spec: &ConvSpec, operands: ConvOperands<T>) {
    let ConvOperands { x, weight, epilogue: epilogue_operands, out } = operands;
    let (rows, n, depth) = (spec.rows(), spec.out_channels, spec.depth());
    assert_eq!(x.len(), spec.batch * spec.input[0] * spec.input[1] * spec.channels, "x");
    assert_eq!((weight.n(), weight.k()), (n, depth), "weight");
    assert_eq!(out.len(), rows * n, "out");
    if rows == 0 {
        return;
    }
    // A 1×1 convolution of every pixel: the map is the rows.
    let in_place = spec.kernel == 1 && spec.stride == 1 && spec.padding == 0;
    let patches = Patches::new(spec, x);
    let pixels = tile_pixels(
        ctx.threads(),
        rows,
        n * size_of::<f32>() + if in_place { 0 } else { patches.row_len() * size_of::<T>() },
    );
    let folded = Folded::new(&spec.epilogue, &epilogue_operands, n);
    let gathered = if in_place { 0 } else { patches.scratch_len(pixels) };
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    ctx.parallel(
        rows.div_ceil(pixels),
        scratch_bytes::<T>(gathered) + scratch_bytes::<f32>(pixels * n),
        |task, mut scratch| {
            let tile_rows = task * pixels..rows.min((task + 1) * pixels);
            let m = tile_rows.len();
            let buffer = scratch.take::<T>(gathered);
            let (a, lda): (&[T], usize) = if in_place {
                (&x[tile_rows.start * depth..tile_rows.end * depth], depth)
            } else {
                patches.gather(isa, tile_rows.clone(), buffer);
                (buffer, patches.row_len())
            };
            let sums = &mut scratch.take::<f32>(pixels * n)[..m * n];
            tile(isa, m, a, lda, weight.view(), 0..n, sums, n, false);
            // SAFETY: each task has its own rows.
            unsafe { finish(isa, &spec.epilogue, &epilogue_operands, &folded, tile_rows, n, sums, &out) };
        },
    );
}

/// Narrow rows seen as fewer wide ones: [rows, n] is [rows / factor, n · factor], which the epilogue finishes with less work
/// per row. Its operands per channel are repeated.
struct Folded {
    /// A power of two that divides every whole tile.
    factor: usize,
    bias: Vec<f32>,
    scale: Vec<f32>,
}

impl Folded {
    fn new<T: Element>(epilogue: &Epilogue, operands: &EpilogueOperands<T>, n: usize) -> Self {
        // A norm needs its row as it is.
        let factor = if epilogue.norm.is_some() { 1 } else { (FOLDED_WIDTH / n.max(1)).clamp(1, TILE_ROWS) };
        let factor = 1 << factor.ilog2();
        let repeat = |values: Option<&[f32]>| values.filter(|_| factor > 1).map_or(Vec::new(), |v| v.repeat(factor));
        Self { factor, bias: repeat(operands.bias), scale: repeat(operands.scale) }
    }
}

/// Runs the epilogue over the sums of the output pixels `rows`.
///
/// # Safety
/// While this runs, nobody else uses these rows of `out`.
#[allow(clippy::too_many_arguments)] // the epilogue's own arguments
unsafe fn finish<T: Element>(
    isa: Isa,
    epilogue: &Epilogue,
    operands: &EpilogueOperands<T>,
    folded: &Folded,
    rows: Range<usize>,
    n: usize,
    sums: &mut [f32],
    out: &Disjoint<T>,
) {
    let Folded { factor, bias, scale } = folded;
    let (wide, whole) = (n * factor, rows.len() / factor * factor);
    let (head, tail) = sums.split_at_mut(whole * n);
    if *factor > 1 && whole > 0 {
        let region = Region { row: rows.start / factor, rows: whole / factor, column: 0, columns: wide, n: wide };
        let operands = EpilogueOperands {
            bias: operands.bias.map(|_| bias.as_slice()),
            scale: operands.scale.map(|_| scale.as_slice()),
            ..*operands
        };
        // SAFETY: the same elements as the rows `rows.start..rows.start + whole`, which are the caller's: tiles start at
        // multiples of the factor.
        unsafe { epilogue::apply(isa, epilogue, &operands, region, head, wide, out) };
    } else if whole > 0 {
        let region = Region { row: rows.start, rows: whole, column: 0, columns: n, n };
        // SAFETY: the caller's rows.
        unsafe { epilogue::apply(isa, epilogue, operands, region, head, n, out) };
    }
    if whole < rows.len() {
        let region = Region { row: rows.start + whole, rows: rows.len() - whole, column: 0, columns: n, n };
        // SAFETY: the caller's rows.
        unsafe { epilogue::apply(isa, epilogue, operands, region, tail, n, out) };
    }
}

/// Pixels of a tile, a multiple of [`TILE_ROWS`]: few enough that all threads have work and the scratch stays in L2. No result
/// depends on it.
fn tile_pixels(threads: usize, rows: usize, bytes_per_pixel: usize) -> usize {
    let fitting = (TILE_BYTES / bytes_per_pixel).clamp(MIN_PIXELS, MAX_PIXELS);
    let shared_out = rows.div_ceil(threads);
    let tiles = shared_out.div_ceil(fitting);
    shared_out.div_ceil(tiles).next_multiple_of(TILE_ROWS)
}
