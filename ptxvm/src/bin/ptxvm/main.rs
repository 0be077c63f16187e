//! `ptxvm`: runs CUDA kernels and CUDA programs on a machine without a GPU.

mod arguments;
mod doctor;
mod nvrtc;
mod program;
mod run;

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{path::PathBuf, process::ExitCode};

/// Runs, checks and counts CUDA kernels on a CPU.
#[derive(Parser)]
#[command(name = "ptxvm", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one kernel of a .ptx or .cu file on buffers made here (.cu needs NVRTC).
    Run(run::Run),
    /// List the kernels of a .ptx or .cu file: parameters, registers, shared memory; or the first thing that cannot run.
    Inspect(run::Inspect),
    /// Run a CUDA program with this machine as its driver: `ptxvm exec -- ./program arguments`.
    Exec(program::Exec),
    /// Say what this machine can do, and measure it.
    Doctor(doctor::Doctor),
}

/// What is watched while kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Bounds and alignment only.
    Fast,
    /// Races, uninitialised reads, barriers, asynchronous copies, …
    Checked,
    /// Counts of instructions, sectors, bank conflicts, …
    Profile,
}

/// Where CUDA sources are compiled.
#[derive(Args, Clone, Debug)]
struct Compiler {
    /// Architecture to compile a .cu file for.
    #[arg(long, default_value = "compute_80", value_name = "ARCH")]
    arch: String,
    /// Folder with libnvrtc.so (else the loader's usual places).
    #[arg(long, env = "PTXVM_NVRTC", value_name = "FOLDER")]
    nvrtc: Option<PathBuf>,
    /// Folder of headers, for NVRTC, before the source's own and the toolkit's.
    #[arg(short = 'I', long = "include", value_name = "FOLDER")]
    include: Vec<PathBuf>,
    /// A further option for NVRTC, such as --device-int128 or -DN=4.
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    nvrtc_option: Vec<String>,
}

/// What stops the command: a sentence for the user.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(command) => run::run(&command),
        Command::Inspect(command) => run::inspect(&command),
        Command::Exec(command) => program::exec(&command),
        Command::Doctor(command) => doctor::doctor(&command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
