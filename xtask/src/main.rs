//! Project tasks: `cargo xtask --help`.

mod archive;
mod deps;
mod error;
mod fixtures;
mod steps;

use clap::{Parser, Subcommand};
use error::Error;
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
    /// Fetch what only tests and benches need (libtorch, 540 MB to download, 490 MB kept) into .deps, once.
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
    /// Formatting, lints and documentation, each without a warning, then every test.
    Ci,
    /// Compare speed with libtorch: one table.
    Bench {
        /// Passed on to the bench program; `--help` lists what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
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
        Task::Deps => deps::provide(),
        Task::Test { seed, cases, arguments } => {
            deps::provide()?;
            steps::test(seed, cases, &arguments)
        }
        Task::Ci => {
            deps::provide()?;
            steps::ci()
        }
        Task::Bench { arguments } => {
            deps::provide()?;
            steps::bench(&arguments)
        }
        Task::Fixtures => fixtures::make(),
    }
}
