//! One network's launches: the time of each by the device's clock beside the least it can take.

use crate::networks::Job;
use crate::{Failure, emit, machine};
use segface::engine::cuda::{CudaEngine, Launching, median};
use segface::profile;
use segface_codegen::explain::operator;
use serde::Serialize;

/// Times of each launch that are taken.
const ROUNDS: usize = 5;
/// Milliseconds of work that the device is given before launches are timed, so that none waits for the host.
const AHEAD: f64 = 4.0;

#[derive(Serialize)]
struct Record<'a> {
    record: &'static str,
    network: &'static str,
    precision: &'static str,
    batch: usize,
    size: usize,
    /// Its place in the run.
    index: usize,
    kernel: &'a str,
    operator: &'a str,
    node: &'a str,
    grid: [u32; 3],
    threads: u32,
    microseconds: f64,
    bound_us: Option<f64>,
    limit: Option<&'static str>,
    gflop: f64,
    megabytes: f64,
}

/// Prints a record for each launch.
///
/// # Errors
/// If a launch fails.
pub fn run(engine: &mut CudaEngine, job: &Job, batch: usize, once: bool) -> Result<(), Failure> {
    let (rounds, ahead) = match once {
        true => (1, 0),
        false => {
            let milliseconds = median(engine.time_runs(Launching::Graph, 5)?);
            (ROUNDS, ((AHEAD / milliseconds.max(1e-3)) as usize).clamp(1, 64))
        }
    };
    let mut times = vec![Vec::new(); engine.program().launches.len()];
    for _ in 0..rounds {
        let round = engine.time_launches(ahead)?;
        times.iter_mut().zip(round).for_each(|(all, one)| all.push(one * 1e3));
    }
    let program = engine.program();
    let predicted = machine::card(engine.device().name())
        .map(|card| profile::Batch::predict(program, batch, std::slice::from_ref(card), &profile::Known::default()));
    for (index, (launch, times)) in program.launches.iter().zip(times).enumerate() {
        let (kernel, node) = (&program.kernels[launch.kernel], &program.graph.nodes[launch.node]);
        let bound = predicted.as_ref().map(|predicted| predicted.launches[index].cards[0].bound);
        emit(&Record {
            record: "kernel",
            network: job.backbone.name(),
            precision: job.precision.name(),
            batch,
            size: job.size,
            index,
            kernel: &kernel.name,
            operator: operator(&node.op),
            node: &node.name,
            grid: launch.grid,
            threads: kernel.threads,
            microseconds: median(times),
            bound_us: bound.map(|bound| bound.microseconds),
            limit: bound.map(|bound| bound.limit.name()),
            gflop: launch.flops as f64 / 1e9,
            megabytes: launch.bytes as f64 / 1e6,
        })?;
    }
    Ok(())
}
