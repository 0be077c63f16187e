//! Speed per core: `cargo bench -p ptxvm`.
//!
//! Throughputs are of one core: what all threads did together, divided by their number. They are warp instructions per
//! second for arithmetic, multiply-accumulates for products, bytes for memory. At the end the time that checked mode takes is
//! printed as a multiple of fast mode's.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use ptxvm::{
    machine::{Launch, LoadedModule, run},
    memory::{AllocationKind, Memory},
    monitor::{Modes, set_modes},
    program::Program,
};
use std::{
    fmt::Write,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

const CHAIN: &str = include_str!("../src/bin/ptxvm/chain.ptx");
const GEMM: &str = include_str!("gemm_bf16_pipelined.ptx");
const COPY: &str = include_str!("copy.ptx");

/// Copies of a line in the loop of [`repeated`], and turns of that loop.
const COPIES: u32 = 60;
const TURNS: u32 = 200;

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

/// A kernel `repeated` whose loop is a line many times over; `{d}`, `{a}`, `{b}` and `{c}` in it become numbers of registers.
fn repeated(line: &str) -> String {
    let mut text = String::from(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry repeated()\n{\n.reg .pred %p<9>;\n.reg .b32 %r<32>;\n\
         .reg .f32 %f<32>;\n.reg .b64 %x<9>;\n.shared .align 16 .b8 words[512];\nmov.u32 %r20, %tid.x;\nmov.u32 %r21, 0;\n\
         shl.b32 %r22, %r20, 2;\nmov.u32 %r23, words;\nadd.u32 %r22, %r22, %r23;\nst.shared.b32 [%r22], 0;\n",
    );
    for k in 0..8 {
        // Ordinary numbers, whatever format they are read as; lines of arithmetic write other registers.
        let _ = writeln!(text, "add.u32 %r{k}, %r20, {};", 0x3c00_3c00 + k);
        let _ = writeln!(text, "mov.b32 %f{k}, %r{k};\ncvt.u64.u32 %x{k}, %r{k};\nsetp.gt.u32 %p{k}, %r20, 7;");
    }
    text += "TURN:\n";
    for n in 0..COPIES {
        let mut line = line.to_owned();
        for (name, number) in
            [("{d}", n % 7), ("{a}", (3 * n + 1) % 7), ("{b}", (5 * n + 2) % 7), ("{c}", (2 * n + 3) % 7)]
        {
            line = line.replace(name, &number.to_string());
        }
        text += &line;
        text.push('\n');
    }
    let _ = write!(text, "add.u32 %r21, %r21, 1;\nsetp.lt.u32 %p8, %r21, {TURNS};\n@%p8 bra TURN;\nret;\n}}\n");
    text
}

/// Runs a launch on one thread, and on all where there are more; `work` is what all of its blocks do.
fn per_core(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    launch: &mut Launch,
    throughput: fn(u64) -> Throughput,
    work: u64,
) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in if all > 1 { vec![1, all] } else { vec![1] } {
        launch.options.threads = threads;
        group.throughput(throughput(work / threads as u64));
        group.bench_function(format!("{name}, per core of {threads}"), |b| {
            b.iter(|| run(black_box(launch)).expect("it runs"));
        });
    }
    launch.options.threads = 1;
}

fn arithmetic(c: &mut Criterion) {
    let mut group = c.benchmark_group("arithmetic");
    let (blocks, warps) = (16, 4);
    let mut chain = launch(CHAIN, "chain", [blocks, 1, 1], warps * 32, vec![]);
    per_core(&mut group, "dependent chain", &mut chain, Throughput::Elements, u64::from(blocks * warps * 18 * 2000));
    for (name, line) in [
        ("add.s32 of registers", "add.s32 %r1{d}, %r{a}, %r{b};"),
        ("add.s32 of a constant", "add.s32 %r1{d}, %r{a}, 12;"),
        ("mad.lo.s32", "mad.lo.s32 %r1{d}, %r{a}, %r{b}, %r{c};"),
        ("fma.rn.f32", "fma.rn.f32 %f1{d}, %f{a}, %f{b}, %f{c};"),
        ("selp.b32", "selp.b32 %r1{d}, %r{a}, %r{b}, %p{c};"),
        ("setp.lt.s32", "setp.lt.s32 %p{d}, %r{a}, %r{b};"),
        ("add.s64", "add.s64 %x{d}, %x{a}, %x{b};"),
        ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f1{d}, %f{a};"),
        ("add.f16x2", "add.f16x2 %r1{d}, %r{a}, %r{b};"),
        ("fma.rn.f16x2", "fma.rn.f16x2 %r1{d}, %r{a}, %r{b}, %r{c};"),
        ("fma.rn.bf16x2", "fma.rn.bf16x2 %r1{d}, %r{a}, %r{b}, %r{c};"),
        ("cvt.rn.f16x2.f32", "cvt.rn.f16x2.f32 %r1{d}, %f{a}, %f{b};"),
        ("shfl.sync.bfly.b32", "shfl.sync.bfly.b32 %r1{d}, %r{a}, 4, 31, -1;"),
    ] {
        let launch = launch(&repeated(line), "repeated", [1, 1, 1], 128, vec![]);
        group.throughput(Throughput::Elements(u64::from(4 * COPIES * TURNS)));
        group.bench_function(name, |b| b.iter(|| run(black_box(&launch)).expect("it runs")));
    }
    group.finish();
}

fn shared(c: &mut Criterion) {
    let mut group = c.benchmark_group("shared memory");
    for (name, line) in
        [("ld.shared.b32", "ld.shared.b32 %r{d}, [%r22];"), ("st.shared.b32", "st.shared.b32 [%r22], %r{a};")]
    {
        let launch = launch(&repeated(line), "repeated", [1, 1, 1], 128, vec![]);
        group.throughput(Throughput::Elements(u64::from(4 * COPIES * TURNS)));
        group.bench_function(name, |b| b.iter(|| run(black_box(&launch)).expect("it runs")));
    }
    group.finish();
}

fn global(c: &mut Criterion) {
    let mut group = c.benchmark_group("global memory");
    let bytes = 4 << 20;
    for (kernel, width) in [("copy_b32", 4), ("copy_v4", 16)] {
        let mut launch = copy(kernel, bytes, width);
        per_core(&mut group, kernel, &mut launch, Throughput::Bytes, bytes as u64);
    }
    group.finish();
}

fn copy(kernel: &str, bytes: usize, width: usize) -> Launch {
    let (from, to) = (buffer(bytes, [1, 2]), buffer(bytes, [0, 0]));
    let params = [from, to].iter().flat_map(|address| address.to_le_bytes()).collect();
    launch(COPY, kernel, [(bytes / width / 256) as u32, 1, 1], 256, params)
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("mma.m16n8k16, f32 sums");
    for format in ["bf16", "f16"] {
        let line = format!(
            "mma.sync.aligned.m16n8k16.row.col.f32.{format}.{format}.f32 {{%f8,%f9,%f10,%f11}}, {{%r0,%r1,%r2,%r3}}, \
             {{%r4,%r5}}, {{%f8,%f9,%f10,%f11}};"
        );
        let launch = launch(&repeated(&line), "repeated", [1, 1, 1], 128, vec![]);
        group.throughput(Throughput::Elements(u64::from(4 * COPIES * TURNS) * 16 * 8 * 16));
        group.bench_function(format!("{format}, registers"), |b| b.iter(|| run(black_box(&launch)).expect("it runs")));
    }
    let (m, n, k) = (512, 512, 512);
    for format in ["bf16", "f16"] {
        let mut launch = product(format, [m, n, k]);
        let name = format!("{format} {m}x{n}x{k}, four stages of cp.async");
        per_core(&mut group, &name, &mut launch, Throughput::Elements, u64::from(m) * u64::from(n) * u64::from(k));
    }
    group.finish();
}

/// A matrix product by `mma`, `ldmatrix` and `cp.async`.
fn product(format: &str, [m, n, k]: [u32; 3]) -> Launch {
    let text = GEMM.replace(".f32.bf16.bf16.f32", &format!(".f32.{format}.{format}.f32"));
    let (a, b) = (buffer((m * k * 2) as usize, [0x80, 0x3b]), buffer((k * n * 2) as usize, [0x80, 0x3b]));
    let c = buffer((m * n * 4) as usize, [0, 0]);
    let mut params: Vec<u8> = [a, b, c].iter().flat_map(|address| address.to_le_bytes()).collect();
    params.extend([m, n, k].iter().flat_map(|size| size.to_le_bytes()));
    let mut launch = launch(&text, "gemm_mma_bf16_pipelined", [n / 128, m / 128, 1], 256, params);
    launch.dynamic_shared = 64 << 10;
    launch
}

/// The time of checked mode as a multiple of fast mode's, run in turns.
fn checked(_: &mut Criterion) {
    // Before memory is allocated: what lies in it is then known from the start.
    set_modes(Modes { checked: true, profile: false });
    let shared = repeated("ld.shared.b32 %r{d}, [%r22];");
    for (name, mut launch) in [
        ("bf16 product, 256x256x256", product("bf16", [256, 256, 256])),
        ("copy of 1 MB by words", copy("copy_b32", 1 << 20, 4)),
        ("copy of 1 MB by 16 bytes", copy("copy_v4", 1 << 20, 16)),
        ("ld.shared.b32", self::launch(&shared, "repeated", [1, 1, 1], 128, vec![])),
    ] {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..9 {
            for (checked, times) in [false, true].into_iter().zip(&mut times) {
                set_modes(Modes { checked, profile: false });
                launch.options.checked = checked;
                let start = Instant::now();
                run(&launch).expect("it runs");
                times.push(start.elapsed().as_secs_f64());
            }
        }
        let [fast, checked] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!("checked mode, {name}: {:.1} times the {:.2} ms of fast mode", checked / fast, fast * 1e3);
    }
    set_modes(Modes::default());
}

criterion_group! {
    name = speed;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = arithmetic, shared, global, products, checked
}
criterion_main!(speed);
