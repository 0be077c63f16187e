//! The ladders of the CUDA kernels on this machine's device: products, MLPs, window attention, MLP fusion and image passes, computed
//! by a thread for each number, by tiles, and by the kernels that networks use.
//!
//! Times are the device's own, by events. `SEGFACE_BENCH_TINY=1` takes tiny problems, for a virtual device, where times mean
//! nothing. Without a device it says so and measures nothing.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segface::engine::cuda::{Device, Launching};
use segface_codegen::plan::Precision;
use segface_gpu_check::ladder::{Scale, problems, rung_name};
use std::time::Duration;

fn ladders(c: &mut Criterion) {
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => return eprintln!("nothing is measured: {error}"),
    };
    let tiny = std::env::var_os("SEGFACE_BENCH_TINY").is_some_and(|value| value != "0");
    for problem in problems(if tiny { Scale::Tiny } else { Scale::Network }) {
        let mut group = c.benchmark_group(format!("cuda {} ({})", problem.name, problem.shape));
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for precision in [Precision::Bf16, Precision::F16] {
            for &rung in problem.rungs {
                let (mut engine, flops) = problem.engine(rung, precision, &device).expect("a rung that tests run too");
                group.throughput(Throughput::Elements(flops));
                group.bench_function(BenchmarkId::new(rung_name(rung), precision.name()), |b| {
                    b.iter_custom(|runs| {
                        let times =
                            engine.time_runs(Launching::Graph, runs as usize).expect("launches that ran before");
                        Duration::from_secs_f64(times.iter().sum::<f64>() / 1e3)
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, ladders);
criterion_main!(benches);
