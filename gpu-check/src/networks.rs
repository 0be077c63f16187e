//! Networks with seeded weights, made ready on all cores while the device is busy with others.

use crate::Failure;
use segface::engine::cuda::{Compiler, CudaEngine, Device, Image};
use segface::weights::{Weights, seeded, seeded_values};
use segface_codegen::cuda::{Program, compile};
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, Precision};
use segface_codegen::{Backbone, ModelSpec, Variant};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// Networks of one backbone in one precision, one for each size of batch.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which network.
    pub backbone: Backbone,
    /// Its precision.
    pub precision: Precision,
    /// Images in one run, one network for each.
    pub batches: Vec<usize>,
    /// Side of the square input.
    pub size: usize,
    /// What the networks give out.
    pub outputs: Vec<Output>,
}

/// A network whose kernels are compiled.
pub struct Ready {
    /// Images in one run.
    pub batch: usize,
    /// Side of the square input.
    pub size: usize,
    program: Arc<Program>,
    images: Vec<Image>,
}

impl Ready {
    /// Takes memory on the device.
    ///
    /// # Errors
    /// With too little memory, or if the driver does not take a kernel.
    pub fn engine(self, device: &Device) -> Result<CudaEngine, Failure> {
        Ok(CudaEngine::with_images(self.program, device, &self.images)?)
    }
}

/// The seeded input of every network: [batch, size, size, 3], channels last.
pub fn input(batch: usize, size: usize) -> Vec<f32> {
    let planar: Vec<f32> = seeded_values("input", 3 * batch * size * size).iter().map(|v| 2.0 * v).collect();
    segface::tensors::channels_last(&planar, batch, 3, size * size)
}

/// Compiles the networks of `jobs` on half the cores and hands each to `take` with its job and batch, in about the order of the jobs.
/// Whatever is not ready at `deadline` is left out. Returns the first failure of `take`; what cannot be compiled is `take`n as a failure.
///
/// # Errors
/// Whatever `take` returns.
pub fn each(
    jobs: &[Job],
    device: &Device,
    deadline: Instant,
    mut take: impl FnMut(&Job, usize, Result<Ready, Failure>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let workers = (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 8).min(jobs.len().max(1));
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    // No more than a network for each worker waits: Swin-B with its constants takes half a gigabyte.
    let (sender, receiver) = mpsc::sync_channel(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, stopped) = (sender.clone(), &next, &stopped);
            scope.spawn(move || {
                while let Some((index, job)) = jobs.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let late = || stopped.load(Ordering::Relaxed) || Instant::now() >= deadline;
                    if late() {
                        return;
                    }
                    let weights = seeded(ModelSpec { backbone: job.backbone, variant: Variant::Celeb });
                    for &batch in &job.batches {
                        if late() || sender.send((index, batch, prepare(&weights, job, batch, device))).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        drop(sender);
        let mut result = Ok(());
        for (index, batch, ready) in &receiver {
            if Instant::now() >= deadline {
                break;
            }
            result = take(&jobs[index], batch, ready);
            if result.is_err() {
                break;
            }
        }
        stopped.store(true, Ordering::Relaxed);
        // Whoever waits to hand something over finds that nobody takes it.
        drop(receiver);
        result
    })
}

fn prepare(weights: &Weights, job: &Job, batch: usize, device: &Device) -> Result<Ready, Failure> {
    let options = CompileOptions {
        batch,
        height: job.size,
        width: job.size,
        precision: job.precision,
        outputs: job.outputs.clone(),
        disabled: Vec::new(),
    };
    let program = compile(&weights.spec, weights, &options, &mut |_| {})?;
    let images = Compiler::find()?.for_device(&program.kernels, device)?;
    Ok(Ready { batch, size: job.size, program: Arc::new(program), images })
}
