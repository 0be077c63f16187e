//! The CPU twin: tiles of output pixels are the tasks. A task gathers the patches of its pixels as rows, multiplies them by
//! the weight and finishes the tile while it is in L2.

mod gather;
#[cfg(test)]
mod tests;

use super::{ConvOperands, ConvSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::epilogue::{self, Region};
use crate::gemm::tile;
use crate::{Context, Element};
use gather::Patches;

/// What gathered rows and sums of one task should stay below, a part of L2.
const TILE_BYTES: usize = 640 << 10;

/// Pixels of a tile at least, where the map has that many: a weight panel that was loaded must be used often.
const MIN_PIXELS: usize = 64;

/// Pixels of a tile at most.
const MAX_PIXELS: usize = 512;

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
                patches.gather(tile_rows.clone(), buffer);
                (buffer, patches.row_len())
            };
            let sums = &mut scratch.take::<f32>(pixels * n)[..m * n];
            tile(isa, m, a, lda, weight.view(), 0..n, sums, n, false);
            let region = Region { row: tile_rows.start, rows: m, column: 0, columns: n, n };
            // SAFETY: each task has its own rows.
            unsafe { epilogue::apply(isa, &spec.epilogue, &epilogue_operands, region, sums, n, &out) };
        },
    );
}

/// Pixels of a tile, a multiple of 32 (two rows of AMX tiles): few enough that all threads have work and the scratch stays
/// in L2. No result depends on it.
fn tile_pixels(threads: usize, rows: usize, bytes_per_pixel: usize) -> usize {
    let fitting = (TILE_BYTES / bytes_per_pixel).clamp(MIN_PIXELS, MAX_PIXELS);
    let shared_out = rows.div_ceil(threads);
    let tiles = shared_out.div_ceil(fitting);
    shared_out.div_ceil(tiles).next_multiple_of(32)
}
