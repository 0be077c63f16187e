//! Elementwise kernels, reductions, scans, sorts and stencils.

use cudarc::driver::DriverError;

use super::scenario;
use crate::mutants::{
    Source::Corpus,
    Stage,
    stage::{Shape, arguments, line},
};

type Outcome = Result<(), DriverError>;

scenario!(VECTOR_ADD, Corpus("elementwise"), vector_add);
fn vector_add(stage: &Stage) -> Outcome {
    let (a, b, c) = (stage.floats(1_000), stage.floats(1_000), stage.empty::<f32>(1_000));
    stage.launch("vector_add", line(4, 256, 0), arguments![&a, &b, &c, 1_000])?;
    stage.finish()
}

scenario!(SAXPY, Corpus("elementwise"), saxpy);
fn saxpy(stage: &Stage) -> Outcome {
    let (x, y) = (stage.floats(1_003), stage.floats(1_003));
    stage.launch("saxpy_vectorised", line(2, 64, 0), arguments![1.5f32, &x, &y, 1_003])?;
    stage.finish()
}

scenario!(GELU, Corpus("elementwise"), gelu);
fn gelu(stage: &Stage) -> Outcome {
    let (x, y) = (stage.floats(4_096), stage.empty::<f32>(4_096));
    stage.launch("gelu_erf", line(4, 128, 0), arguments![&x, &y, 4_096])?;
    stage.finish()
}

scenario!(TREE, Corpus("reduce"), tree);
fn tree(stage: &Stage) -> Outcome {
    let (input, partial) = (stage.floats(1_000), stage.empty::<f32>(2));
    let shared = if stage.mutated { 127 * 4 } else { 128 * 4 };
    stage.launch("reduce_shared_tree", line(2, 128, shared), arguments![&input, &partial, 1_000])?;
    stage.finish()
}

scenario!(SHUFFLE_SUM, Corpus("reduce"), shuffle_sum);
fn shuffle_sum(stage: &Stage) -> Outcome {
    let (input, total) = (stage.floats(2_000), stage.zeros::<f32>(1));
    stage.launch("reduce_shuffle_atomic", line(4, 192, 0), arguments![&input, &total, 2_000])?;
    stage.finish()
}

scenario!(BLOCK_CLASS, Corpus("reduce"), block_class);
fn block_class(stage: &Stage) -> Outcome {
    let (input, largest) = (stage.zeros::<f64>(2_000), stage.empty::<f64>(3));
    stage.launch("reduce_block_class", line(3, 256, 0), arguments![&input, &largest, 2_000])?;
    stage.finish()
}

scenario!(LAST_BLOCK, Corpus("reduce"), last_block);
fn last_block(stage: &Stage) -> Outcome {
    let (input, partial, total) = (stage.floats(3_000), stage.empty::<f32>(6), stage.empty::<f32>(1));
    stage.launch("reduce_last_block", line(6, 96, 0), arguments![&input, &partial, &total, 3_000])?;
    stage.finish()
}

scenario!(SCAN, Corpus("scan"), scan);
fn scan(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(500, -9, 9), stage.empty::<i32>(500));
    stage.launch("scan_exclusive_block", line(2, 128, 1_024), arguments![&input, &out, 500])?;
    stage.finish()
}

scenario!(SCAN_SHUFFLE, Corpus("scan"), scan_shuffle);
fn scan_shuffle(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(500, -9, 9), stage.empty::<i32>(500));
    stage.launch("scan_inclusive_block", line(2, 256, 0), arguments![&input, &out, 500])?;
    stage.finish()
}

scenario!(LOOK_BACK, Corpus("scan"), look_back);
fn look_back(stage: &Stage) -> Outcome {
    let (input, out) = (stage.integers(2_000, -9, 9), stage.empty::<i32>(2_000));
    let (status, ticket) = (stage.zeros::<u64>(16), stage.zeros::<u32>(1));
    stage.launch("scan_decoupled_look_back", line(16, 128, 0), arguments![&input, &out, &status, &ticket, 2_000])?;
    stage.finish()
}

scenario!(BITONIC, Corpus("sort"), bitonic);
fn bitonic(stage: &Stage) -> Outcome {
    let keys = stage.integers(512, 0, 1_000);
    stage.launch("bitonic_sort_tile", line(2, 128, 1_024), arguments![&keys])?;
    stage.finish()
}

scenario!(RADIX, Corpus("sort"), radix);
fn radix(stage: &Stage) -> Outcome {
    let (keys, out, counts) = (stage.integers(700, 0, 1 << 20), stage.empty::<i32>(700), stage.empty::<u32>(48));
    stage.launch("radix_count", line(3, 256, 0), arguments![&keys, &counts, 700, 4])?;
    stage.launch("radix_scan", line(1, 1_024, 0), arguments![&counts, 48])?;
    stage.launch("radix_scatter", line(3, 256, 0), arguments![&keys, &out, &counts, 700, 4])?;
    stage.finish()
}

scenario!(TRANSPOSE, Corpus("transpose"), transpose);
fn transpose(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(64 * 96), stage.empty::<f32>(64 * 96));
    let shape = Shape([2, 3], [32, 8], 0);
    stage.launch("transpose_padded", shape, arguments![&input, &out, 64, 96])?;
    stage.finish()
}

scenario!(HISTOGRAM, Corpus("histogram"), histogram);
fn histogram(stage: &Stage) -> Outcome {
    let input = stage.bytes(5_000);
    let bins = if stage.mutated { stage.empty::<u32>(256) } else { stage.zeros::<u32>(256) };
    stage.launch("histogram_shared", line(3, 128, 0), arguments![&input, &bins, 5_000])?;
    stage.finish()
}

scenario!(JACOBI, Corpus("stencil"), jacobi);
fn jacobi(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(32 * 32), stage.empty::<f32>(32 * 32));
    // In place, neighbouring blocks read what this one writes.
    let target = if stage.mutated { &input } else { &out };
    stage.launch("jacobi_2d", Shape([2, 2], [16, 16], 0), arguments![&input, target, 32, 32])?;
    stage.finish()
}

scenario!(STENCIL_3D, Corpus("stencil"), stencil_3d);
fn stencil_3d(stage: &Stage) -> Outcome {
    let input = stage.floats(16 * 8 * 6);
    let once = if stage.mutated { stage.empty::<f32>(16 * 8 * 6) } else { stage.zeros::<f32>(16 * 8 * 6) };
    let twice = stage.zeros::<f32>(16 * 8 * 6);
    let shape = Shape([1, 2], [16, 4], 0);
    stage.launch("stencil_3d", shape, arguments![&input, &once, 16, 8, 6, 0.4f32, 0.1f32])?;
    stage.launch("stencil_3d", shape, arguments![&once, &twice, 16, 8, 6, 0.4f32, 0.1f32])?;
    stage.finish()
}

scenario!(CONVOLVE, Corpus("stencil"), convolve);
fn convolve(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(256 * 2), stage.empty::<f32>(256 * 2));
    stage.launch("convolve_rows", Shape([2, 2], [128, 1], 0), arguments![&input, &out, 256, 2])?;
    stage.finish()
}

scenario!(SOFTMAX, Corpus("norm"), softmax);
fn softmax(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(4 * 200), stage.empty::<f32>(4 * 200));
    stage.launch("softmax_block", line(4, 96, 800), arguments![&input, &out, 200])?;
    stage.finish()
}

scenario!(SOFTMAX_WARP, Corpus("norm"), softmax_warp);
fn softmax_warp(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(8 * 1_024), stage.empty::<f32>(8 * 1_024));
    stage.launch("softmax_warp", line(2, 128, 0), arguments![&input, &out, 8, 1_024])?;
    stage.finish()
}

scenario!(LAYER_NORM, Corpus("norm"), layer_norm);
fn layer_norm(stage: &Stage) -> Outcome {
    let (input, out) = (stage.floats(3 * 200), stage.empty::<f32>(3 * 200));
    let (gamma, beta) = (stage.floats(200), stage.floats(200));
    stage.launch("layer_norm_f32", line(3, 128, 0), arguments![&input, &gamma, &beta, &out, 200, 1e-5f32])?;
    stage.finish()
}

scenario!(NBODY, Corpus("algorithms"), nbody);
fn nbody(stage: &Stage) -> Outcome {
    bodies(stage, 100)
}

scenario!(NBODY_PART, Corpus("algorithms"), nbody_part);
/// One tile that is not full.
fn nbody_part(stage: &Stage) -> Outcome {
    bodies(stage, 40)
}

fn bodies(stage: &Stage, n: usize) -> Outcome {
    let (bodies, out) = (stage.floats(4 * n), stage.empty::<f32>(4 * n));
    let shape = line(n.div_ceil(64) as u32, 64, 64 * 16);
    stage.launch("nbody_forces", shape, arguments![&bodies, &out, n as i32, 0.01f32])?;
    stage.finish()
}
