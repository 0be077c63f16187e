//! `segface explain`: what the compiler makes of a network, pass by pass.

use super::model::ModelArgs;
use segface::Error;
use segface::engine::EngineError;
use segface_codegen::explain::{Summary, listing, table};
use segface_codegen::ir::Output;
use segface_codegen::plan::compile_observed;

/// Show the network after each compiler pass: calls, FLOPs, bytes moved and size of the arena
#[derive(clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images in one run
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// List every call after these stages (repeatable): model, a pass, lower_precision, or `all`
    #[arg(long, value_name = "STAGE", default_value = "lower_precision")]
    list: Vec<String>,
}

pub(crate) fn run(args: ExplainArgs) -> Result<(), Error> {
    let mut request = args.model.request();
    request.batch = Some(args.batch);
    request.outputs = vec![Output::Labels];
    let weights = request.weights()?;
    let options = request.options(&weights);
    let mut summaries = Vec::new();
    let mut lists = Vec::new();
    let plan = compile_observed(&weights.spec, &weights, &options, &mut |stage| {
        summaries.push(Summary::of(stage.name, stage.rewrites, stage.graph));
        if args.list.iter().any(|wanted| wanted == stage.name || wanted == "all") {
            lists.push((stage.name.to_owned(), listing(stage.graph)));
        }
    })
    .map_err(EngineError::from)?;
    super::print(|out| {
        writeln!(
            out,
            "{}, {} image(s) of {}x{}, {}\n",
            weights.spec,
            options.batch,
            options.height,
            options.width,
            options.precision.name()
        )?;
        for (name, list) in &lists {
            writeln!(out, "after {name}:\n{list}")?;
        }
        write!(out, "{}", table(&summaries))?;
        let (constants, arena) = (plan.constant_bytes(), plan.memory.arena_bytes);
        writeln!(out, "\nconstants {:.1} MB, arena {:.1} MB", constants as f64 / 1e6, arena as f64 / 1e6)
    })
}
