//! Whole networks: time of a run as a graph and launch by launch, and of each launch beside its bound.

use crate::ladder::runs_for;
use crate::networks::{Job, each, input};
use crate::{Failure, emit, kernels, machine};
use segface::engine::cuda::{Device, Launching, median};
use segface::profile::{Batch, Known};
use segface_codegen::Backbone;
use segface_codegen::ir::Output;
use segface_codegen::plan::Precision;
use serde::Serialize;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which networks.
    pub backbones: Vec<Backbone>,
    /// In which precisions; all networks in the first come before any in the second.
    pub precisions: Vec<Precision>,
    /// Images in one run.
    pub batches: Vec<usize>,
    /// Side of the input.
    pub size: usize,
    /// Seconds after which no further network is measured.
    pub seconds: u64,
    /// One run each, for devices whose times mean nothing.
    pub once: bool,
}

#[derive(Serialize)]
struct Speed {
    record: &'static str,
    network: &'static str,
    precision: &'static str,
    batch: usize,
    size: usize,
    launches: usize,
    gflop: f64,
    arena_mb: f64,
    constants_mb: f64,
    graph_ms: f64,
    single_ms: f64,
    /// The least time by the card's data sheet, if its data are known.
    bound_ms: Option<f64>,
    runs: usize,
}

#[derive(Serialize)]
struct Missing {
    record: &'static str,
    network: &'static str,
    precision: &'static str,
    batch: usize,
    size: usize,
    reason: String,
}

/// Measures and prints a record for each network, and one for each kind of launch in the first precision and batch.
///
/// # Errors
/// If the device is lost. A network that cannot be compiled or has no room is a record that says so.
pub fn run(device: &Device, options: &Options) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let jobs: Vec<Job> = options
        .precisions
        .iter()
        .flat_map(|&precision| options.backbones.iter().map(move |&backbone| (precision, backbone)))
        .map(|(precision, backbone)| Job {
            backbone,
            precision,
            batches: options.batches.clone(),
            size: options.size,
            outputs: vec![Output::Labels],
        })
        .collect();
    let mut left: Vec<(usize, usize)> =
        (0..jobs.len()).flat_map(|job| options.batches.iter().map(move |&batch| (job, batch))).collect();
    let missing = |job: &Job, batch, reason: String| Missing {
        record: "speed-missing",
        network: job.backbone.name(),
        precision: job.precision.name(),
        batch,
        size: job.size,
        reason,
    };
    each(&jobs, device, deadline, |job, batch, ready| {
        let same = |job: &Job, other: &Job| (job.backbone, job.precision) == (other.backbone, other.precision);
        left.retain(|&(index, one)| !(one == batch && same(&jobs[index], job)));
        let profiled = job.precision == options.precisions[0] && batch == options.batches[0];
        let measured = ready.and_then(|ready| {
            let mut engine = ready.engine(device)?;
            engine.run(&input(batch, job.size))?;
            let runs = if options.once { 1 } else { runs_for(&mut engine, 0.15)? };
            let graph_ms = median(engine.time_runs(Launching::Graph, runs)?);
            let single_ms = median(engine.time_runs(Launching::Single, runs)?);
            let program = engine.program();
            emit(&Speed {
                record: "speed",
                network: job.backbone.name(),
                precision: job.precision.name(),
                batch,
                size: job.size,
                launches: program.launches.len(),
                gflop: program.launches.iter().map(|launch| launch.flops).sum::<u64>() as f64 / 1e9,
                arena_mb: program.memory.arena_bytes as f64 / 1e6,
                constants_mb: program.constant_bytes() as f64 / 1e6,
                graph_ms,
                single_ms,
                bound_ms: machine::card(device.name()).map(|card| {
                    let predicted = Batch::predict(program, batch, std::slice::from_ref(card), &Known::default());
                    predicted.predicted[0].bound_microseconds / 1e3
                }),
                runs,
            })?;
            if profiled {
                kernels::run(&mut engine, job, batch, options.once)?;
            }
            Ok(())
        });
        match measured {
            Ok(()) => Ok(()),
            Err(error) => {
                emit(&missing(job, batch, error.to_string()))?;
                if is_final(&error) { Err(error) } else { Ok(()) }
            }
        }
    })?;
    for (index, batch) in left {
        emit(&missing(&jobs[index], batch, format!("not reached within {} s", options.seconds)))?;
    }
    Ok(())
}

/// Whether nothing more can be done on the device.
fn is_final(error: &Failure) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if error.downcast_ref::<segface::engine::cuda::CudaError>().is_some_and(|error| error.is_final()) {
            return true;
        }
        cause = error.source();
    }
    false
}
