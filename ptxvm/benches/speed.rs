//! Speed per core: `cargo bench -p ptxvm`.
//!
//! Times are processor time, so that others on the machine do not count: throughputs are what a core does, in warp
//! instructions per second for arithmetic, multiply-accumulates for products, bytes for memory. At the end two tables are
//! printed: how the time goes down with more threads, and how many times as long checked mode takes as fast mode.

#[path = "speed/clock.rs"]
mod clock;
#[path = "speed/launches.rs"]
mod launches;

use clock::ProcessorTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use launches::{CHAIN, COPIES, TURNS, copy, launch, product, repeated, textbook};
use ptxvm::{
    machine::{Launch, run},
    monitor::{Modes, set_modes},
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

type Group<'a> = BenchmarkGroup<'a, ProcessorTime>;

fn bench(group: &mut Group<'_>, name: &str, launch: &Launch, throughput: Throughput) {
    group.throughput(throughput);
    group.bench_function(name, |b| b.iter(|| run(black_box(launch)).expect("it runs")));
}

const BLOCKS: u32 = 16;
const WARPS: u32 = 4;

fn chain() -> Launch {
    launch(CHAIN, "chain", [BLOCKS, 1, 1], [WARPS * 32, 1, 1], vec![])
}

/// Lines of [`repeated`], each of which counts as one instruction.
fn lines(group: &mut Group<'_>, lines: &[(&str, &str)]) {
    for (name, line) in lines {
        bench(group, name, &repeated(line), Throughput::Elements(u64::from(4 * COPIES * TURNS)));
    }
}

fn arithmetic(c: &mut Criterion<ProcessorTime>) {
    let mut group = c.benchmark_group("arithmetic");
    let work = u64::from(BLOCKS * WARPS * 18 * 2000);
    bench(&mut group, "dependent chain", &chain(), Throughput::Elements(work));
    lines(
        &mut group,
        &[
            ("add.s32 of registers", "add.s32 %r1{d}, %r{a}, %r{b};"),
            ("add.s32 of a constant", "add.s32 %r1{d}, %r{a}, 12;"),
            ("mad.lo.s32", "mad.lo.s32 %r1{d}, %r{a}, %r{b}, %r{c};"),
            ("fma.rn.f32", "fma.rn.f32 %f1{d}, %f{a}, %f{b}, %f{c};"),
            ("selp.b32", "selp.b32 %r1{d}, %r{a}, %r{b}, %p{c};"),
            ("setp.lt.s32", "setp.lt.s32 %p{d}, %r{a}, %r{b};"),
            ("add.s64", "add.s64 %x1{d}, %x{a}, %x{b};"),
            ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f1{d}, %f{a};"),
            ("fma.rn.f64", "fma.rn.f64 %z1{d}, %z{a}, %z{b}, %z{c};"),
            ("add.f16x2", "add.f16x2 %r1{d}, %r{a}, %r{b};"),
            ("fma.rn.f16x2", "fma.rn.f16x2 %r1{d}, %r{a}, %r{b}, %r{c};"),
            ("max.f16x2", "max.f16x2 %r1{d}, %r{a}, %r{b};"),
            ("fma.rn.bf16x2", "fma.rn.bf16x2 %r1{d}, %r{a}, %r{b}, %r{c};"),
            ("cvt.rn.f16x2.f32", "cvt.rn.f16x2.f32 %r1{d}, %f{a}, %f{b};"),
            ("shfl.sync.bfly.b32", "shfl.sync.bfly.b32 %r1{d}, %r{a}, 4, 31, -1;"),
        ],
    );
    group.finish();
}

fn memory(c: &mut Criterion<ProcessorTime>) {
    let mut group = c.benchmark_group("memory");
    lines(
        &mut group,
        &[
            ("ld.shared.b32", "ld.shared.b32 %r1{d}, [%r22];"),
            ("st.shared.b32", "st.shared.b32 [%r22], %r{a};"),
            ("ldmatrix.x4", "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r24];"),
        ],
    );
    let bytes = 4 << 20;
    for (kernel, width) in [("copy_b32", 4), ("copy_v4", 16)] {
        bench(&mut group, kernel, &copy(kernel, bytes, width), Throughput::Bytes(bytes as u64));
    }
    let blocks = 1000;
    let empty = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty()\n{\nret;\n}\n";
    let empty = launch(empty, "empty", [blocks, 1, 1], [32, 1, 1], vec![]);
    bench(&mut group, "a block of one warp that does nothing", &empty, Throughput::Elements(blocks.into()));
    group.finish();
}

fn products(c: &mut Criterion<ProcessorTime>) {
    let mut group = c.benchmark_group("products");
    let single = "{%f8,%f9,%f10,%f11}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f8,%f9,%f10,%f11}";
    let double = "{%z8,%z9}, {%z0}, {%z1}, {%z8,%z9}";
    for (name, shape, registers) in [
        ("mma.m16n8k16 bf16", [16, 8, 16], format!("m16n8k16.row.col.f32.bf16.bf16.f32 {single}")),
        ("mma.m16n8k16 f16", [16, 8, 16], format!("m16n8k16.row.col.f32.f16.f16.f32 {single}")),
        ("mma.m16n8k8 tf32", [16, 8, 8], format!("m16n8k8.row.col.f32.tf32.tf32.f32 {single}")),
        ("mma.m16n8k32 e4m3", [16, 8, 32], format!("m16n8k32.row.col.f32.e4m3.e4m3.f32 {single}")),
        ("mma.m8n8k4 f64", [8, 8, 4], format!("m8n8k4.row.col.f64.f64.f64.f64 {double}")),
    ] {
        let line = format!("mma.sync.aligned.{registers};");
        let work = u64::from(4 * COPIES * TURNS) * shape.iter().product::<u64>();
        bench(&mut group, &format!("{name}, registers"), &repeated(&line), Throughput::Elements(work));
    }
    for format in ["bf16", "f16"] {
        let name = format!("{format} 512x512x512, four stages of cp.async");
        bench(&mut group, &name, &product(format, [512; 3]), Throughput::Elements(512 * 512 * 512));
    }
    group.finish();
}

/// Whether the command line asks for this line of a table: it names nothing, or a part of the line's name.
fn wanted(table: &str, name: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|part| format!("{table}/{name}").contains(&part))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Processor time of a launch on one thread, in seconds.
fn processor_time(launch: &Launch) -> f64 {
    let used = clock::used();
    run(black_box(launch)).expect("it runs");
    (clock::used() - used).as_secs_f64()
}

/// Wall time of a launch, in seconds.
fn wall_time(launch: &Launch) -> f64 {
    let start = Instant::now();
    run(black_box(launch)).expect("it runs");
    start.elapsed().as_secs_f64()
}

/// The time on all threads as a part of that on one, run in turns: many short runs, of which the best count, since others may
/// use the machine meanwhile. In wall time: what other threads have used, the system adds up only now and then.
fn scaling(_: &mut Criterion<ProcessorTime>) {
    const RUNS: u32 = 300;
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for (name, mut launch) in [
        ("dependent chain", launch(CHAIN, "chain", [4, 1, 1], [WARPS * 32, 1, 1], vec![])),
        ("copy_v4 of 1 MB", copy("copy_v4", 1 << 20, 16)),
        ("bf16 256x256x256", product("bf16", [256; 3])),
        ("f16 256x256x256", product("f16", [256; 3])),
    ] {
        if !wanted("scaling", name) {
            continue;
        }
        let mut best = [f64::INFINITY; 2];
        for _ in 0..RUNS {
            for (threads, best) in [1, all].into_iter().zip(&mut best) {
                launch.options.threads = threads;
                *best = best.min(wall_time(&launch));
            }
        }
        let [one, many] = best;
        println!("{all} threads, {name}: {:.2} of the wall time of one thread", many / one);
    }
}

/// The time of checked mode as a multiple of fast mode's, run in turns.
fn checked(_: &mut Criterion<ProcessorTime>) {
    // Before memory is allocated: what lies in it is then known from the start.
    set_modes(Modes { checked: true, profile: false });
    let mut launches = vec![
        ("copy of 1 MB by words", copy("copy_b32", 1 << 20, 4)),
        ("copy of 1 MB by 16 bytes", copy("copy_v4", 1 << 20, 16)),
        ("gemm_mma_bf16_pipelined", product("bf16", [256; 3])),
    ];
    for name in [
        "gelu_erf",
        "transpose_naive",
        "transpose_padded",
        "histogram_shared",
        "histogram_privatised",
        "jacobi_2d",
        "layer_norm_f32",
        "softmax_block",
        "gemm_tiled",
        "gemm_register_blocked",
        "gemm_mma_bf16",
        "reduce_shared_tree",
        "scan_exclusive_block",
    ] {
        launches.push((name, textbook(name)));
    }
    for (name, mut launch) in launches.into_iter().filter(|(name, _)| wanted("checked", name)) {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..9 {
            for (checked, times) in [false, true].into_iter().zip(&mut times) {
                set_modes(Modes { checked, profile: false });
                launch.options.checked = checked;
                times.push(processor_time(&launch));
            }
        }
        let [fast, checked] = times.map(median);
        println!("checked mode, {name}: {:.1} times the {:.2} ms of fast mode", checked / fast, fast * 1e3);
    }
    set_modes(Modes::default());
}

fn configuration() -> Criterion<ProcessorTime> {
    Criterion::default()
        .with_measurement(ProcessorTime)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
}

criterion_group! {
    name = speed;
    config = configuration();
    targets = arithmetic, memory, products, scaling, checked
}
criterion_main!(speed);
