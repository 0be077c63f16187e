//! Products alone on one thread: how near to a loop that never leaves the registers.
//!
//! `cargo bench -p segface-bench --bench gemm` prints first, for each shape, GFLOP/s and the share of the peak that was
//! measured in between (median of interleaved pairs), then criterion's own statistics.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segface_kernels::{
    Act, Context, DType, Element, Epilogue, Isa, bf16,
    epilogue::{EpilogueOperands, Residual},
    gemm::{self, GemmOperands, GemmSpec, PackedMatrix, Prologue, PrologueOperands, tile},
    mlp::{self, MlpOperands, MlpSpec},
    peak,
};
use std::time::Instant;

/// Rows, columns and depth as they occur: MobileNet's 1×1 convolutions, a Swin window, a stage's linear layers.
const TILES: [[usize; 3]; 10] = [
    [128, 64, 16],
    [128, 72, 24],
    [128, 480, 80],
    [128, 960, 160],
    [49, 32, 49],
    [49, 384, 128],
    [128, 128, 128],
    [128, 512, 128],
    [128, 256, 1024],
    [128, 512, 512],
];

/// Whole kernel calls: rows, columns, depth, activation.
const GEMMS: [([usize; 3], Act); 6] = [
    ([65536, 64, 16], Act::HardSwish),
    ([16384, 72, 24], Act::HardSwish),
    ([1024, 480, 80], Act::HardSwish),
    ([256, 960, 160], Act::HardSwish),
    ([1024, 1536, 512], Act::Identity),
    ([19, 2048, 256], Act::Relu),
];

/// Rows and channels of transformer blocks; the hidden layer is four times as wide.
const MLPS: [[usize; 2]; 5] = [[16384, 128], [4096, 256], [1024, 512], [196, 512], [256, 1024]];

/// Elements that begin at a cache line, as those of an arena do.
struct Aligned<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Element> Aligned<T> {
    fn new(len: usize) -> Self {
        let memory: Vec<T> = (0..len + 64).map(|i| T::from_f32((i % 7) as f32 * 0.1 - 0.3)).collect();
        let start = memory.as_ptr().align_offset(64);
        Self { memory, start, len }
    }

    fn get(&self) -> &[T] {
        &self.memory[self.start..][..self.len]
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..][..self.len]
    }
}

fn weight<T: Element>(isa: Isa, n: usize, k: usize) -> PackedMatrix {
    let values: Vec<f32> = (0..n * k).map(|i| (i % 13) as f32 * 0.01 - 0.06).collect();
    PackedMatrix::pack::<T>(isa, n, k, &values)
}

/// A named piece of work and its FLOPs.
struct Work<'a> {
    name: String,
    dtype: DType,
    flops: f64,
    run: Box<dyn FnMut() + 'a>,
}

fn tile_work<T: Element>(isa: Isa, [m, n, k]: [usize; 3]) -> Work<'static> {
    let (a, b, mut c) = (Aligned::<T>::new(m * k), weight::<T>(isa, n, k), Aligned::<f32>::new(m * n));
    Work {
        name: format!("tile {m}×{n}×{k}"),
        dtype: T::DTYPE,
        flops: 2.0 * (m * n * k) as f64,
        run: Box::new(move || tile(isa, m, a.get(), k, b.view(), 0..n, c.get_mut(), n, false)),
    }
}

fn gemm_work<T: Element>(isa: Isa, [rows, n, k]: [usize; 3], act: Act) -> Work<'static> {
    let mut ctx = Context::new(1, isa);
    let (x, b, mut out) = (Aligned::<T>::new(rows * k), weight::<T>(isa, n, k), Aligned::<T>::new(rows * n));
    let bias = vec![0.1; n];
    let epilogue = Epilogue { bias: true, act, ..Epilogue::default() };
    let spec = GemmSpec { rows, n, k, prologue: Prologue::None, epilogue };
    let run = move || {
        let epilogue = EpilogueOperands { bias: Some(&bias), scale: None, norm: None, residual: Residual::None };
        let operands =
            GemmOperands { x: x.get(), prologue: PrologueOperands::None, weight: &b, epilogue, out: out.get_mut() };
        gemm::cpu::gemm(&mut ctx, &spec, operands);
    };
    Work {
        name: format!("gemm {rows}×{n}×{k} {act:?}"),
        dtype: T::DTYPE,
        flops: 2.0 * (rows * n * k) as f64,
        run: Box::new(run),
    }
}

fn mlp_work<T: Element>(isa: Isa, [rows, channels]: [usize; 2]) -> Work<'static> {
    let hidden = 4 * channels;
    let mut ctx = Context::new(1, isa);
    let (weight1, weight2) = (weight::<T>(isa, hidden, channels), weight::<T>(isa, channels, hidden));
    let mut x = Aligned::<T>::new(rows * channels);
    let bias = vec![0.01; hidden];
    let epilogue = Epilogue { bias: true, residual: true, ..Epilogue::default() };
    let spec = MlpSpec { rows, channels, hidden, norm: Some(1e-5), act: Act::Gelu, epilogue };
    let run = move || {
        let bias2 = &bias[..channels];
        let epilogue = EpilogueOperands { bias: Some(bias2), scale: None, norm: None, residual: Residual::InPlace };
        let operands = MlpOperands {
            x: None,
            norm: Some((bias2, bias2)),
            weight1: &weight1,
            bias1: &bias,
            weight2: &weight2,
            epilogue,
            out: x.get_mut(),
        };
        mlp::cpu::mlp(&mut ctx, &spec, operands);
    };
    Work {
        name: format!("mlp {rows}×{channels}"),
        dtype: T::DTYPE,
        flops: 4.0 * (rows * channels * hidden) as f64,
        run: Box::new(run),
    }
}

fn all<T: Element>(isa: Isa) -> Vec<Work<'static>> {
    let tiles = TILES.into_iter().map(|shape| tile_work::<T>(isa, shape));
    let gemms = GEMMS.into_iter().map(|(shape, act)| gemm_work::<T>(isa, shape, act));
    tiles.chain(gemms).chain(MLPS.into_iter().map(|shape| mlp_work::<T>(isa, shape))).collect()
}

/// Rate of the work and its share of the peak: medians over pairs of one peak and some calls.
fn share(isa: Isa, work: &mut Work) -> (f64, f64) {
    const PAIRS: usize = 9;
    let calls = (5e7 / work.flops).ceil() as usize;
    (work.run)();
    let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
        .map(|_| {
            let peak = peak::gflops(isa, work.dtype);
            let start = Instant::now();
            (0..calls).for_each(|_| (work.run)());
            let rate = work.flops * calls as f64 / start.elapsed().as_secs_f64() / 1e9;
            (rate, rate / peak)
        })
        .collect();
    let rate = *pairs.select_nth_unstable_by(PAIRS / 2, |a, b| a.0.total_cmp(&b.0)).1;
    let share = *pairs.select_nth_unstable_by(PAIRS / 2, |a, b| a.1.total_cmp(&b.1)).1;
    (rate.0, share.1)
}

fn products(criterion: &mut Criterion) {
    let isa = Isa::best();
    let mut works = all::<f32>(isa);
    works.extend(all::<bf16>(isa));
    println!("{:28} {:5} {:>9} {:>6}   ({}, 1 thread)", "product", "type", "GFLOP/s", "peak", isa.name());
    for work in &mut works {
        let (rate, share) = share(isa, work);
        println!("{:28} {:5} {rate:9.1} {:5.1}%", work.name, format!("{:?}", work.dtype), share * 100.0);
    }
    let mut group = criterion.benchmark_group("products");
    group.sample_size(10);
    for work in &mut works {
        group.throughput(Throughput::Elements(work.flops as u64));
        group.bench_function(BenchmarkId::new(&work.name, format!("{:?}", work.dtype)), |b| b.iter(&mut work.run));
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
