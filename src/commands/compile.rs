//! `segface compile`: weights become an engine file.

use super::model::ModelArgs;
use segface::engine::file;
use segface::{Error, parser::Request};
use segface_codegen::ir::Output;
use std::path::PathBuf;

/// Compile a network to an engine file: a plan and packed weights that load in milliseconds
///
/// Give the engine to any command with `--weights`. It runs on every CPU; an engine of bf16 weights is fast only where the
/// CPU multiplies bf16.
#[derive(clap::Args)]
pub(crate) struct CompileArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The engine file to write
    #[arg(long, short)]
    output: PathBuf,
    /// Images in one run
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: CompileArgs) -> Result<(), Error> {
    let request = Request { batch: Some(args.batch), outputs: vec![Output::Logits], ..args.model.request() };
    let plan = request.plan()?;
    file::save(&plan, &args.output, args.force)?;
    eprintln!(
        "{}: {}, {} calls, {:.2} GFLOP, constants {:.1} MB, arena {:.1} MB",
        args.output.display(),
        plan.model,
        plan.graph.nodes.len(),
        plan.flops() as f64 / 1e9,
        plan.constant_bytes() as f64 / 1e6,
        plan.memory.arena_bytes as f64 / 1e6
    );
    Ok(())
}
