//! `segface tune`: measures which tiles are fastest on a card, for later runs.

use super::model::ModelArgs;
use indicatif::{ProgressBar, ProgressStyle};
use segface::Error;
use segface::engine::EngineError;
use segface::engine::cuda::Device;
use segface::engine::cuda::tune::{Cache, Effort, permit, tune};
use segface::parser::{Request, Target};
use segface_codegen::cuda::compile_graph_tuned;
use segface_codegen::plan::{CompileOptions, Precision, optimise};

/// Measure which tiles of a network's products are fastest on this card; later runs use them
///
/// Every candidate runs in turn with the others. Results are kept in the cache folder (SEGFACE_CACHE), by device, driver and
/// kernels, for products of this network at this size, batch and precision.
#[derive(clap::Args)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Images in one run
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Times that every candidate is measured
    #[arg(long, default_value_t = Effort::default().rounds)]
    rounds: usize,
    /// Launches of a kernel in each of them
    #[arg(long, default_value_t = Effort::default().repeats)]
    repeats: usize,
    /// Also on a virtual device, where times mean nothing
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: TuneArgs) -> Result<(), Error> {
    let broken = |reason: &str| Error::from(EngineError::Profile { reason: reason.into() });
    let ordinal = match args.model.device {
        Target::Auto => 0,
        Target::Cuda(ordinal) => ordinal,
        Target::CudaEach(_) => return Err(EngineError::SeveralDevices.into()),
        Target::Cpu => return Err(broken("there is nothing to tune on the CPU; use `--device cuda`")),
    };
    let device = Device::open(ordinal).map_err(EngineError::from)?;
    if let Some(warning) = permit(&device, args.force)? {
        eprintln!("warning: {warning}");
    }
    let request = Request { batch: Some(args.batch), ..args.model.request() };
    let weights = request.weights()?;
    let precision = request.precision.unwrap_or(Precision::Bf16);
    let options = CompileOptions { precision, ..request.options(&weights) };
    let graph = optimise(&weights.spec, &weights, &options, &mut |_| {}).map_err(EngineError::from)?;
    let progress = ProgressBar::new(0).with_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} products").unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let effort = Effort { repeats: args.repeats.max(1), rounds: args.rounds.max(1) };
    let measured = tune(
        &device,
        effort,
        &mut |tuning| compile_graph_tuned(weights.spec, precision, graph.clone(), tuning),
        &mut |_, count| {
            progress.set_length(count as u64);
            progress.inc(1);
        },
    )?;
    progress.finish_and_clear();
    let cache = Cache::of(&device).map_err(EngineError::from)?;
    if let Some(cache) = &cache {
        cache.store(&measured);
    }
    super::print(|out| {
        writeln!(out, "{:<52} {:>12} {:>9}  others (µs)", "product", "fastest", "µs")?;
        for product in &measured {
            let name = |tile: &segface_codegen::cuda::Tile| format!("{}x{}", tile.rows, tile.columns);
            let time =
                product.candidates.iter().find(|(tile, _)| *tile == product.best).map_or(f64::NAN, |(_, time)| *time);
            let others = product.candidates.iter().filter(|(tile, _)| *tile != product.best);
            let others: Vec<String> = others.map(|(tile, time)| format!("{} {time:.2}", name(tile))).collect();
            let best = name(&product.best);
            writeln!(out, "{:<52} {best:>12} {time:>9.2}  {}", product.problem.to_string(), others.join(", "))?;
        }
        match &cache {
            Some(cache) if cache.path.exists() => writeln!(out, "kept in {}", cache.path.display()),
            Some(cache) => writeln!(out, "not kept: {} cannot be written", cache.path.display()),
            None => writeln!(out, "not kept: there is no cache folder"),
        }
    })
}
