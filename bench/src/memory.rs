//! Peak memory of one engine, measured in a process of its own.

use super::Case;
use segface::engine::CpuEngine;
use segface::tensors::channels_last;
use segface_codegen::plan::Precision;
use segface_kernels::Isa;
use segface_reference::Model;
use std::error::Error;
use std::process::Command;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Starts this program again to measure one engine. `None` where the system does not tell.
pub(crate) fn of(case: Case, engine: &str, threads: usize) -> Option<u64> {
    let short = engine.rsplit(' ').next().filter(|_| engine.starts_with("segface")).unwrap_or("torch");
    let output = Command::new(std::env::current_exe().ok()?)
        .args(["--case", &case.name(), "--threads", &threads.to_string(), "--memory", short])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Loads the network, runs it three times and says by how many bytes the process grew at its peak.
///
/// Weights come from a file that is mapped, as a user's do, so the seeded ones are first written to one.
pub(crate) fn measure_here(case: Case, engine: &str) -> Result<u64, Box<dyn Error>> {
    let _guard = tch::no_grad_guard();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("weights.safetensors");
    {
        case.weights().save(&file, Default::default())?;
    }
    reset_peak()?;
    let before = peak_bytes()?;
    let weights = segface::weights::Weights::load(&file)?;
    let planar = case.input();
    match engine {
        "torch" => {
            let input = Tensor::from_slice(&planar).view([1, 3, case.size as i64, case.size as i64]);
            let model = Model::new(weights.spec, &weights, Kind::Float);
            for _ in 0..3 {
                model.forward(&input, None)?;
            }
        }
        _ => {
            let precision = if engine == "bf16" { Precision::Bf16 } else { Precision::F32 };
            let plan = case.plan(&weights, precision)?;
            drop(weights);
            let mut engine = CpuEngine::new(Arc::new(plan), 1, Isa::best())?;
            let input = channels_last(&planar, 1, 3, case.size * case.size);
            for _ in 0..3 {
                engine.run(&input)?;
            }
        }
    }
    Ok(peak_bytes()?.saturating_sub(before))
}

/// Sets the peak back to what the process has now.
fn reset_peak() -> Result<(), Box<dyn Error>> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}

/// The largest resident set since the last reset.
fn peak_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("the system does not tell VmHWM")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).ok_or("VmHWM without a number")?.parse()?;
    Ok(kilobytes * 1024)
}
