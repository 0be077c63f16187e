//! Matrix products and attention.

use cudarc::driver::{CudaSlice, DriverError};
use half::{bf16, f16};

use super::scenario;
use crate::{
    Random,
    mutants::{
        Source::Corpus,
        Stage,
        stage::{Shape, arguments, line},
    },
};

type Outcome = Result<(), DriverError>;

fn halves(stage: &Stage, count: usize) -> CudaSlice<f16> {
    let values: Vec<f16> = Random::new(count as u64).units(count).into_iter().map(f16::from_f32).collect();
    stage.device.upload(&values)
}

fn bfloats(stage: &Stage, count: usize) -> CudaSlice<bf16> {
    let values: Vec<bf16> = Random::new(count as u64).units(count).into_iter().map(bf16::from_f32).collect();
    stage.device.upload(&values)
}

fn plain(stage: &Stage, kernel: &str, tile: usize, block: [u32; 2]) -> Outcome {
    let (m, n, k) = (70usize, 33usize, 40usize);
    let (a, b, c) = (stage.floats(m * k), stage.floats(k * n), stage.empty::<f32>(m * n));
    let grid = [n.div_ceil(tile) as u32, m.div_ceil(tile) as u32];
    stage.launch(kernel, Shape(grid, block, 0), arguments![&a, &b, &c, m as i32, n as i32, k as i32])?;
    stage.finish()
}

scenario!(TILED, Corpus("gemm"), tiled);
fn tiled(stage: &Stage) -> Outcome {
    plain(stage, "gemm_tiled", 16, [16, 16])
}

scenario!(REGISTER_BLOCKED, Corpus("gemm"), register_blocked);
fn register_blocked(stage: &Stage) -> Outcome {
    plain(stage, "gemm_register_blocked", 64, [256, 1])
}

fn tensor(stage: &Stage, kernel: &str, tile: usize, threads: u32, shared: u32) -> Outcome {
    let (m, n, k) = (128usize, 128usize, 256usize);
    let (a, b, c) = (bfloats(stage, m * k), bfloats(stage, k * n), stage.empty::<f32>(m * n));
    let shape = Shape([(n / tile) as u32, (m / tile) as u32], [threads, 1], shared);
    stage.launch(kernel, shape, arguments![&a, &b, &c, m as i32, n as i32, k as i32])?;
    stage.finish()
}

scenario!(MMA, Corpus("gemm_mma"), mma);
fn mma(stage: &Stage) -> Outcome {
    tensor(stage, "gemm_mma_bf16", 64, 128, 0)
}

scenario!(PIPELINED, Corpus("gemm_mma"), pipelined);
fn pipelined(stage: &Stage) -> Outcome {
    tensor(stage, "gemm_mma_bf16_pipelined", 128, 256, 64 << 10)
}

scenario!(WMMA_STAGED, Corpus("gemm_wmma"), wmma_staged);
fn wmma_staged(stage: &Stage) -> Outcome {
    let (a, b, c) = (halves(stage, 32 * 32), halves(stage, 32 * 32), stage.empty::<f16>(32 * 32));
    stage.launch("gemm_wmma_f16_accumulate_f16", line(1, 128, 0), arguments![&a, &b, &c, 32, 32, 32])?;
    stage.finish()
}

scenario!(ATTENTION, Corpus("flash_attention"), attention);
fn attention(stage: &Stage) -> Outcome {
    let length = 150usize;
    let [q, k, v] = std::array::from_fn(|_| halves(stage, length * 64));
    let out = stage.empty::<f16>(length * 64);
    stage.launch("flash_attention", line(3, 128, 0), arguments![&q, &k, &v, &out, length as i32, 0.125f32, 0])?;
    stage.finish()
}
