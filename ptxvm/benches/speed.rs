//! Speed per core: `cargo bench -p ptxvm`.
//!
//! Throughputs are warp instructions per second for the chain, multiply-accumulates for the products, bytes for the rest.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptxvm::{
    machine::{Launch, LoadedModule, run},
    memory::{AllocationKind, Memory},
    program::Program,
};
use std::{hint::black_box, sync::Arc, time::Duration};

const CHAIN: &str = include_str!("../src/bin/ptxvm/chain.ptx");
const GEMM: &str = include_str!("gemm_bf16_pipelined.ptx");
const COPY: &str = include_str!("copy.ptx");

fn load(text: &str) -> Arc<LoadedModule> {
    let program = Program::compile(text).expect("the benches' own PTX compiles");
    LoadedModule::load(Arc::new(program), 0).expect("there is memory for its variables")
}

fn buffer(bytes: usize, pattern: [u8; 2]) -> u64 {
    let memory = Memory::global();
    let address = memory.allocate(bytes as u64, 256, AllocationKind::Device, 0, "bench".to_owned()).expect("memory");
    // SAFETY: just allocated with that size.
    unsafe { memory.fill(address, &pattern, bytes as u64 / 2).expect("in bounds") };
    address
}

fn launch(text: &str, kernel: &str, grid: [u32; 3], block: u32, params: Vec<u8>) -> Launch {
    let module = load(text);
    let kernel = module.kernel(kernel).expect("the bench's kernel");
    let mut launch = Launch::new(module, kernel, grid, [block, 1, 1], params);
    launch.options.threads = 1;
    launch
}

fn arithmetic(c: &mut Criterion) {
    let mut group = c.benchmark_group("arithmetic");
    let (blocks, warps, operations) = (4, 4, 18 * 2000);
    for threads in [1, 2] {
        let mut launch = launch(CHAIN, "chain", [blocks, 1, 1], warps * 32, vec![]);
        launch.options.threads = threads;
        group.throughput(Throughput::Elements(u64::from(blocks * warps * operations)));
        group.bench_function(format!("dependent chain, {threads} thread(s)"), |b| {
            b.iter(|| run(black_box(&launch)).expect("it runs"));
        });
    }
    group.finish();
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("mma m16n8k16, 4-stage cp.async");
    let (m, n, k) = (512u32, 512u32, 512u32);
    let f16 = GEMM.replace(".f32.bf16.bf16.f32", ".f32.f16.f16.f32");
    for (name, text) in [("bf16", GEMM), ("f16", f16.as_str())] {
        let (a, b) = (buffer((m * k * 2) as usize, [0x80, 0x3b]), buffer((k * n * 2) as usize, [0x80, 0x3b]));
        let c = buffer((m * n * 4) as usize, [0, 0]);
        let mut params: Vec<u8> = [a, b, c].iter().flat_map(|address| address.to_le_bytes()).collect();
        params.extend([m, n, k].iter().flat_map(|size| size.to_le_bytes()));
        let mut launch = launch(text, "gemm_mma_bf16_pipelined", [n / 128, m / 128, 1], 256, params);
        launch.dynamic_shared = 64 << 10;
        for (mode, checked) in [("fast", false), ("late copies poisoned", true)] {
            launch.options.checked = checked;
            group.throughput(Throughput::Elements(u64::from(m) * u64::from(n) * u64::from(k)));
            group.bench_function(format!("{name} {m}x{n}x{k}, {mode}"), |b| {
                b.iter(|| run(black_box(&launch)).expect("it runs"));
            });
        }
    }
    group.finish();
}

fn memory(c: &mut Criterion) {
    let mut group = c.benchmark_group("global memory");
    let bytes = 4 << 20;
    let (from, to) = (buffer(bytes, [1, 2]), buffer(bytes, [0, 0]));
    for (kernel, width) in [("copy_b32", 4), ("copy_v4", 16)] {
        let params = [from, to].iter().flat_map(|address| address.to_le_bytes()).collect();
        let launch = launch(COPY, kernel, [(bytes / width / 256) as u32, 1, 1], 256, params);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(kernel, |b| b.iter(|| run(black_box(&launch)).expect("it runs")));
    }
    group.finish();
}

criterion_group! {
    name = speed;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = arithmetic, products, memory
}
criterion_main!(speed);
