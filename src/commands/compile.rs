//! `segface compile`: weights become an engine file.

use super::model::ModelArgs;
use segface::engine::cuda::CudaFile;
use segface::engine::{EngineError, file};
use segface::{Error, parser::Request};
use segface_codegen::ir::Output;
use std::path::PathBuf;

/// Compile a network to an engine file: a plan and packed weights that load in milliseconds
///
/// Give the engine to any command with `--weights`. It runs on every CPU; an engine of bf16 weights is fast only where the
/// CPU multiplies bf16. With `--cards` it is for CUDA devices and needs nothing but a driver where it runs.
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
    /// Compile for these CUDA cards instead of the CPU, e.g. sm_80,sm_86,sm_89,sm_90,sm_120; PTX for later cards is added
    #[arg(long, value_name = "TARGETS", value_delimiter = ',', value_parser = card)]
    cards: Vec<String>,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: CompileArgs) -> Result<(), Error> {
    let request = Request { batch: Some(args.batch), outputs: vec![Output::Logits], ..args.model.request() };
    if !args.cards.is_empty() {
        return for_cards(&args, &request);
    }
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

/// `sm_80` and later.
fn card(text: &str) -> Result<String, String> {
    match text.strip_prefix("sm_").and_then(|number| number.parse::<u32>().ok()) {
        Some(80..) => Ok(text.into()),
        _ => Err(format!("`{text}` is no architecture the kernels run on; expected sm_80 or later")),
    }
}

fn for_cards(args: &CompileArgs, request: &Request<'_>) -> Result<(), Error> {
    let file = CudaFile::compile(request.program()?, &args.cards).map_err(EngineError::from)?;
    file.save(&args.output, args.force)?;
    let program = &file.program;
    eprintln!(
        "{}: {}, {} launches of {} kernels for {}, constants {:.1} MB, arena {:.1} MB; tiles by {}",
        args.output.display(),
        program.model,
        program.launches.len(),
        program.kernels.len(),
        args.cards.join(", "),
        program.constant_bytes() as f64 / 1e6,
        program.memory.arena_bytes as f64 / 1e6,
        program.chosen_by
    );
    Ok(())
}
