//! Project tasks: `cargo xtask --help`.

mod archive;
mod deps;
mod error;
mod fixtures;
mod gpu_check;
mod libraries;
mod ptxvm;
mod scope;
mod steps;

use clap::{Parser, Subcommand};
use error::Error;
use libraries::LIBTORCH;
use std::process::ExitCode;

/// Tasks of the segface project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch what only tests and benches need into .deps, once: libtorch (540 MB to download, 490 MB kept); for ptxvm, two
    /// versions of NVRTC and NVIDIA's assembler (234 MB to download, 290 MB kept).
    Deps,
    /// Run every test: the crates' own, then the suite that compares all of it with libtorch.
    Test {
        /// Draw other random problems: a number, or `random`.
        #[arg(long, value_name = "SEED")]
        seed: Option<String>,
        /// Draw this many times the usual number of random problems.
        #[arg(long, value_name = "TIMES")]
        cases: Option<u32>,
        /// Passed on to `cargo test`, e.g. `-p segface-tests --test parity` or a part of tests' names.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build ptxvm, its CUDA driver library and its command, and print how programs are made to use the library.
    Ptxvm,
    /// Build the program in release with libtorch in it, for `segface train --engine tch` and `mixed`.
    Torch,
    /// Formatting, lints and documentation, each without a warning, then every test.
    Ci,
    /// Compare speed with libtorch: one table.
    Bench {
        /// Passed on to the bench program; `--help` lists what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure kernels with NVIDIA's assembler and write docs/ptxas.tsv: those that are new or were edited since. All of them
    /// take some 15 minutes of one core.
    Ptxas,
    GpuCheck(gpu_check::Options),
    /// Write the generated fixtures anew (Python 3 with venv and pip) and list what changed.
    Fixtures,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<(), Error> {
    match task {
        Task::Deps => {
            deps::provide(&[&LIBTORCH])?;
            deps::provide(&ptxvm::NEEDED)
        }
        Task::Test { seed, cases, arguments } => steps::test(seed, cases, &arguments),
        Task::Ptxvm => {
            let folder = ptxvm::build_all()?;
            eprintln!("the command is {}", folder.join("ptxvm").display());
            println!("{}", ptxvm::export(&folder));
            Ok(())
        }
        Task::Torch => steps::torch(),
        Task::Ci => steps::ci(),
        Task::Bench { arguments } => steps::bench(&arguments),
        Task::Ptxas => steps::ptxas(),
        Task::GpuCheck(options) => gpu_check::check(options),
        Task::Fixtures => fixtures::make(),
    }
}
