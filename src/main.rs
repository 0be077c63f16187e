//! The command line.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// SegFace face parsing: masks of hair, skin, eyes, lips... from photos of faces.
#[derive(Parser)]
#[command(version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Parse(commands::parse::ParseArgs),
    Eval(commands::eval::EvalArgs),
    Train(Box<commands::train::TrainArgs>),
    Data(commands::data::DataArgs),
    Logits(commands::logits::LogitsArgs),
    Compile(commands::compile::CompileArgs),
    Explain(commands::explain::ExplainArgs),
    Profile(commands::profile::ProfileArgs),
    Tune(commands::tune::TuneArgs),
    Doctor(commands::doctor::DoctorArgs),
    Convert(commands::convert::ConvertArgs),
    Inspect(commands::inspect::InspectArgs),
    Download(commands::download::DownloadArgs),
}

fn main() -> ExitCode {
    let log = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    let done = match Cli::parse().command {
        Command::Parse(args) => commands::parse::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Train(args) => commands::train::run(*args),
        Command::Data(args) => commands::data::run(args),
        Command::Logits(args) => commands::logits::run(args),
        Command::Compile(args) => commands::compile::run(args),
        Command::Explain(args) => commands::explain::run(args),
        Command::Profile(args) => commands::profile::run(args),
        Command::Tune(args) => commands::tune::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Convert(args) => commands::convert::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Download(args) => commands::download::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            segface::print_error(&error);
            ExitCode::FAILURE
        }
    }
}
