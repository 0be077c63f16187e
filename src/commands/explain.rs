//! `segface explain`: what the compiler makes of a network, pass by pass.

use super::model::ModelArgs;
use segface::Error;
use segface::engine::EngineError;
use segface::profile::cpu;
use segface_codegen::explain::{Summary, listing, table};
use segface_codegen::ir::Output;
use segface_codegen::plan::{Plan, compile_observed};
use segface_kernels::Isa;
use std::collections::BTreeMap;

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
    /// Run the plan this many times and list each call's median time and rate
    #[arg(long, value_name = "RUNS")]
    measure: Option<usize>,
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
    })?;
    match args.measure {
        Some(runs) => measure(plan, args.model.threads(), request.isa(), runs.max(1)),
        None => Ok(()),
    }
}

/// Runs the plan and prints what each call takes, then the sums by kernel.
fn measure(plan: Plan, threads: usize, isa: Isa, runs: usize) -> Result<(), Error> {
    let profile = cpu::measure(plan, threads, isa, runs)?;
    let peak = profile.peak_gflops;
    let mut kernels: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    let (mut total_ms, mut total_gflop) = (0.0, 0.0);
    super::print(|out| {
        writeln!(out, "\n{threads} thread(s), {}, peak {peak:.0} GFLOP/s\n", isa.name())?;
        for call in &profile.calls {
            let (name, ms, gflop) = (call.operator, call.milliseconds, call.flops as f64 / 1e9);
            let rate = gflop / ms * 1e3;
            writeln!(
                out,
                "{name:<16} {:<52} {ms:>9.3} ms {rate:>8.0} GFLOP/s {:>4.0} %",
                call.name,
                100.0 * rate / peak
            )?;
            let entry = kernels.entry(name).or_default();
            *entry = (entry.0 + 1, entry.1 + ms, entry.2 + gflop);
            total_ms += ms;
            total_gflop += gflop;
        }
        writeln!(out)?;
        for (name, (calls, ms, gflop)) in &kernels {
            let rate = gflop / ms * 1e3;
            let (time, peak) = (100.0 * ms / total_ms, 100.0 * rate / peak);
            writeln!(
                out,
                "{name:<16} {calls:>4} calls {ms:>9.2} ms {time:>5.1} % of time {rate:>8.0} GFLOP/s {peak:>4.0} %"
            )?;
        }
        let rate = total_gflop / total_ms * 1e3;
        writeln!(out, "{:<27} {total_ms:>9.2} ms {rate:>25.0} GFLOP/s {:>4.0} %", "all", 100.0 * rate / peak)
    })
}
