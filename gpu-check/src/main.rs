//! The device's part of `cargo xtask gpu-check`: prints its results as lines of JSON.

use clap::{Parser, Subcommand};
use segface::engine::cuda::Device;
use segface_codegen::Backbone;
use segface_codegen::plan::Precision;
use segface_gpu_check::ladder::Scale;
use segface_gpu_check::{Failure, compare, ladder, machine, outputs, speed};
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks and measurements on a CUDA device.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// What the driver and its first device are
    Machine,
    /// Run every backbone and write its logits into a folder
    Outputs {
        /// Where the logits go
        #[arg(long)]
        folder: PathBuf,
        /// On the CPU in f32
        #[arg(long)]
        cpu: bool,
        /// Precisions, separated by commas
        #[arg(long, value_delimiter = ',', value_parser = precision, default_value = "bf16,f16,tf32,f32")]
        precisions: Vec<Precision>,
        /// Side of the input
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Images in one run
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Seconds after which no further network is run
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Compare what two devices wrote
    Compare {
        /// Of the device in question
        device: PathBuf,
        /// Of the device beside it
        other: PathBuf,
        /// Of the CPU
        cpu: PathBuf,
    },
    /// Time networks, and the launches of each
    Speed {
        /// Backbones, separated by commas; all if none are named
        #[arg(long, value_delimiter = ',')]
        networks: Vec<Backbone>,
        /// Precisions, separated by commas
        #[arg(long, value_delimiter = ',', value_parser = precision, default_value = "bf16,f16")]
        precisions: Vec<Precision>,
        /// Images in one run, separated by commas
        #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
        batches: Vec<usize>,
        /// Side of the input
        #[arg(long, default_value_t = 512)]
        size: usize,
        /// Seconds after which no further network is measured
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// One run each, where times mean nothing
        #[arg(long)]
        once: bool,
    },
    /// Time every rung of every ladder
    Ladder {
        /// Tiny problems, once each
        #[arg(long)]
        tiny: bool,
    },
}

fn precision(name: &str) -> Result<Precision, String> {
    Precision::ALL.into_iter().find(|p| p.name() == name).ok_or(format!("`{name}` is no precision"))
}

fn main() -> ExitCode {
    match run(Arguments::parse().part) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            segface::print_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

/// Whether everything passed.
fn run(part: Part) -> Result<bool, Failure> {
    match part {
        Part::Machine => machine::run(&Device::open(0)?)?,
        Part::Outputs { folder, cpu: true, size, batch, .. } => outputs::on_cpu([size, batch], &folder)?,
        Part::Outputs { folder, precisions, size, batch, seconds, .. } => {
            outputs::on_device(&Device::open(0)?, &precisions, [size, batch], seconds, &folder)?;
        }
        Part::Compare { device, other, cpu } => return compare::run(&device, &other, &cpu),
        Part::Speed { networks, precisions, batches, size, seconds, once } => {
            let backbones = if networks.is_empty() { Backbone::ALL.to_vec() } else { networks };
            let options = speed::Options { backbones, precisions, batches, size, seconds, once };
            speed::run(&Device::open(0)?, &options)?;
        }
        Part::Ladder { tiny } => ladder::run(&Device::open(0)?, if tiny { Scale::Tiny } else { Scale::Network })?,
    }
    Ok(true)
}
