//! Logits and label maps of every network, written down so that two devices can be compared.

use crate::networks::{Job, each, input};
use crate::{Failure, emit};
use segface::engine::CpuEngine;
use segface::engine::cuda::Device;
use segface::parser::default_threads;
use segface::weights::seeded;
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, Precision, compile};
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::Isa;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one network gave out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Always `output`.
    pub record: String,
    /// Backbone.
    pub network: String,
    /// Precision.
    pub precision: String,
    /// Side of the square input.
    pub size: usize,
    /// Images.
    pub batch: usize,
    /// [batch, height, width, classes] of the logits.
    pub shape: Vec<usize>,
    /// SHA-256 of the logits as little-endian f32, first 16 digits.
    pub logits: String,
    /// SHA-256 of the label map, a byte for each pixel, first 16 digits.
    pub labels: String,
    /// Where the logits lie, within the folder.
    pub file: String,
}

/// Runs every backbone in every one of `precisions` on the device and writes the logits into `folder`.
///
/// # Errors
/// If a network cannot be compiled or run, or the folder cannot be written to; networks not reached in time are left out.
pub fn on_device(
    device: &Device,
    precisions: &[Precision],
    [size, batch]: [usize; 2],
    seconds: u64,
    folder: &Path,
) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let jobs: Vec<Job> = precisions
        .iter()
        .flat_map(|&precision| Backbone::ALL.map(|backbone| (precision, backbone)))
        .map(|(precision, backbone)| Job {
            backbone,
            precision,
            batches: vec![batch],
            size,
            outputs: vec![Output::Logits],
        })
        .collect();
    fs::create_dir_all(folder)?;
    let numbers = input(batch, size);
    each(&jobs, device, deadline, |job, batch, ready| {
        let mut engine = ready?.engine(device)?;
        engine.run(&numbers)?;
        let (shape, logits) = engine.output(Output::Logits)?;
        write(folder, job.backbone, job.precision, [size, batch], shape, &logits)
    })
}

/// The same in f32 on this machine's CPU: what both devices are held against.
///
/// # Errors
/// As [`on_device`].
pub fn on_cpu([size, batch]: [usize; 2], folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)?;
    let numbers = input(batch, size);
    for backbone in Backbone::ALL {
        let weights = seeded(ModelSpec { backbone, variant: Variant::Celeb });
        let options = CompileOptions {
            batch,
            height: size,
            width: size,
            precision: Precision::F32,
            outputs: vec![Output::Logits],
            disabled: Vec::new(),
        };
        let plan = compile(&weights.spec, &weights, &options)?;
        let mut engine = CpuEngine::new(Arc::new(plan), default_threads(), Isa::best())?;
        engine.run(&numbers)?;
        let (shape, logits) = engine.output(Output::Logits)?;
        write(folder, backbone, Precision::F32, [size, batch], shape, &logits)?;
    }
    Ok(())
}

fn write(
    folder: &Path,
    backbone: Backbone,
    precision: Precision,
    [size, batch]: [usize; 2],
    shape: Vec<usize>,
    logits: &[f32],
) -> Result<(), Failure> {
    let bytes: Vec<u8> = logits.iter().flat_map(|value| value.to_le_bytes()).collect();
    let file = format!("{}_{}_{size}x{batch}.logits", backbone.name(), precision.name());
    fs::write(folder.join(&file), &bytes)?;
    let classes = shape.last().copied().unwrap_or(1).max(1);
    let record = Record {
        record: "output".into(),
        network: backbone.name().into(),
        precision: precision.name().into(),
        size,
        batch,
        logits: digest(&bytes),
        labels: digest(&labels(logits, classes)),
        shape,
        file,
    };
    fs::write(folder.join(&record.file).with_extension("json"), serde_json::to_vec(&record)?)?;
    emit(&record)
}

/// The class of each pixel: the greatest of its logits, the first on ties.
pub fn labels(logits: &[f32], classes: usize) -> Vec<u8> {
    let best = |pixel: &[f32]| (1..pixel.len()).fold(0, |best, i| if pixel[i] > pixel[best] { i } else { best });
    logits.chunks(classes).map(|pixel| best(pixel) as u8).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
