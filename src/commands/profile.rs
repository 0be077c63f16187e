//! `segface profile`: what every launch of a network costs, and what bounds it.

use super::model::ModelArgs;
use indicatif::{ProgressBar, ProgressStyle};
use segface::engine::cuda::{Compiler, CudaEngine, CudaError, Device, tune};
use segface::image::{ImageError, prepare_output_folder, write_output};
use segface::parser::{Request, Target};
use segface::profile::{
    Batch, Counters, Known, Profile, cards_table, counters, cpu, launches_table, notes, page, rooms_table, trace,
};
use segface::weights::seeded_values;
use segface::{Error, engine::EngineError};
use segface_codegen::cuda::card::{Card, cards};
use segface_codegen::cuda::{Program, Tuning};
use segface_codegen::ir::Output;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Say what every kernel launch of a network costs and what keeps it from being faster
///
/// On CUDA: a predicted bound for each launch on named cards, which needs no GPU; where there is one, also measured times. On the
/// CPU: measured times of every call.
#[derive(clap::Args)]
#[command(after_help = "\
With --out: profile.json (everything), trace.json (for ui.perfetto.dev), profile.html (roofline and table, one file).

Counters: `PTXVM_MODE=profile PTXVM_REPORT=report.json segface profile --device cuda` with ptxvm as the driver counts sectors,
bank conflicts and instructions while it runs; `--counters report.json` uses such a report without a driver.")]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Cards to predict for [default: all known]: a100, h100, rtx4090, l4, a6000
    #[arg(long = "card", value_name = "CARDS", value_delimiter = ',', value_parser = card)]
    cards: Vec<Card>,
    /// Images in one run, one or several numbers
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Vec<u16>,
    /// Write JSON, a trace and an HTML page into this folder
    #[arg(long, short, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Rows of the table
    #[arg(long, default_value_t = 15)]
    top: usize,
    /// A report of ptxvm in profile mode, whose counts refine the bounds
    #[arg(long, value_name = "FILE")]
    counters: Option<PathBuf>,
    /// Do not ask the compiler for registers: faster, occupancy is then an upper bound
    #[arg(long)]
    no_registers: bool,
    /// Runs to measure where there is something to measure on; 0 for none
    #[arg(long, value_name = "RUNS", default_value_t = 9)]
    measure: usize,
}

fn card(name: &str) -> Result<Card, String> {
    Card::named(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = cards().iter().map(|card| card.name.as_str()).collect();
        format!("no data for a card `{name}`; known are {}", known.join(", "))
    })
}

pub(crate) fn run(args: ProfileArgs) -> Result<(), Error> {
    if let Some(folder) = &args.out {
        prepare_output_folder(folder)?;
    }
    match args.model.device {
        Target::Cpu => on_cpu(&args),
        Target::Cuda(ordinal) => on_cuda(&args, ordinal),
        Target::CudaEach(_) => Err(EngineError::SeveralDevices.into()),
        Target::Auto if Device::open(0).is_ok() => on_cuda(&args, 0),
        Target::Auto => on_cpu(&args),
    }
}

/// What the driver shows, if there is one.
enum AtHand {
    Nothing,
    /// A device without a card behind it, by name.
    Virtual(String),
    Real(Device),
}

impl AtHand {
    fn look(ordinal: usize) -> Result<Self, CudaError> {
        match Device::open(ordinal) {
            Ok(device) if device.is_virtual()? => Ok(AtHand::Virtual(device.name().into())),
            Ok(device) => Ok(AtHand::Real(device)),
            // Predictions need none. A number that was asked for and is not there is another matter.
            Err(CudaError::NoDriver | CudaError::NoDevice { found: 0, .. }) if ordinal == 0 => Ok(AtHand::Nothing),
            Err(error) => Err(error),
        }
    }
}

fn on_cuda(args: &ProfileArgs, ordinal: usize) -> Result<(), Error> {
    let at_hand = AtHand::look(ordinal).map_err(EngineError::from)?;
    let mut profiled = if args.cards.is_empty() { cards().to_vec() } else { args.cards.clone() };
    // One network for all cards, as an engine file has it; for a single card, the network that it would run.
    let mut tuning = Tuning::of(if let [one] = &profiled[..] { one.clone() } else { Card::default() });
    if let AtHand::Real(device) = &at_hand {
        tuning = tune::tuning(device).map_err(EngineError::from)?;
        // The card at hand comes first: its bound stands beside what is measured.
        profiled.retain(|card| card.name != tuning.card.name);
        profiled.insert(0, tuning.card.clone());
    }
    let request =
        |batch: u16| Request { batch: Some(usize::from(batch)), outputs: vec![Output::Labels], ..args.model.request() };
    let programs =
        args.batch.iter().map(|batch| request(*batch).program_tuned(&tuning)).collect::<Result<Vec<_>, _>>()?;
    let first = &programs[0];
    let mut known = Known { counters: counts(args, first, &at_hand, ordinal)?, ..Known::default() };
    let mut batches = Vec::new();
    let compiler = if args.no_registers { None } else { found(Compiler::find())? };
    for (program, batch) in programs.iter().zip(&args.batch) {
        known.resources.clear();
        if let Some(compiler) = &compiler {
            registers(compiler, program, &profiled, &mut known)?;
        }
        batches.push(Batch::predict(program, usize::from(*batch), &profiled, &known));
    }
    if let AtHand::Real(device) = &at_hand {
        let measured = if args.measure > 0 { programs.len() } else { 0 };
        for (program, batch) in programs.iter().zip(&mut batches).take(measured) {
            let mut engine = CudaEngine::new(Arc::new(program.clone()), device).map_err(EngineError::from)?;
            batch.measure(&mut engine, args.measure).map_err(EngineError::from)?;
        }
    }
    let size = first.input().map_or([0; 2], |id| [1, 2].map(|axis| first.graph.values[id.0].shape[axis]));
    let mut profile = Profile {
        network: first.model.to_string(),
        size,
        precision: first.precision.name(),
        tiles_by: first.chosen_by.clone(),
        notes: notes(&known),
        cards: profiled,
        batches,
    };
    profile.notes.push(match &at_hand {
        AtHand::Real(device) if args.measure > 0 => format!("Measured on {} by its events.", device.name()),
        AtHand::Real(device) => format!("Nothing was measured on {}.", device.name()),
        AtHand::Virtual(name) => format!("The device ({name}) is a virtual one: nothing was measured on it."),
        AtHand::Nothing => "There is no CUDA device here: nothing was measured.".into(),
    });
    show(args, &profile)?;
    if let Some(folder) = &args.out {
        write_json(folder, "profile.json", &profile)?;
        write_json(folder, "trace.json", &trace(&profile))?;
        write_page(folder, &page(&profile).map_err(|reason| EngineError::Profile { reason })?)?;
    }
    Ok(())
}

/// Says so once where registers will be unknown; any other failure is one.
fn found(compiler: Result<Compiler, CudaError>) -> Result<Option<Compiler>, Error> {
    match compiler {
        Ok(compiler) => Ok(Some(compiler)),
        Err(error @ CudaError::NoCompiler { .. }) => {
            eprintln!("registers are unknown: {error}");
            Ok(None)
        }
        Err(error) => Err(EngineError::from(error).into()),
    }
}

/// Asks ptxas for each architecture among the cards, showing how far it is.
fn registers(compiler: &Compiler, program: &Program, cards: &[Card], known: &mut Known) -> Result<(), Error> {
    let architectures: BTreeSet<u32> = cards.iter().map(|card| card.arch).collect();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} kernels compiled for their registers")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let progress = ProgressBar::new((architectures.len() * program.kernels.len()) as u64).with_style(style);
    for arch in architectures {
        let mut resources = Vec::with_capacity(program.kernels.len());
        // A few at a time, so that the bar moves.
        for kernels in program.kernels.chunks(8) {
            let some = compiler.resources(kernels, &format!("sm_{arch}")).map_err(EngineError::from)?;
            progress.inc(some.len() as u64);
            resources.extend(some);
        }
        known.resources.insert(arch, resources);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Counts of the network's kernels: from the report that is named, or from a run on a virtual device that writes one.
fn counts(
    args: &ProfileArgs,
    program: &Program,
    at_hand: &AtHand,
    ordinal: usize,
) -> Result<HashMap<String, Counters>, Error> {
    let broken = |reason: String| EngineError::Profile { reason };
    if let Some(path) = &args.counters {
        return Ok(counters::read(path).map_err(broken)?);
    }
    let counting = std::env::var("PTXVM_MODE").is_ok_and(|mode| mode.split(',').any(|part| part.trim() == "profile"));
    let report = std::env::var_os("PTXVM_REPORT").map(PathBuf::from);
    let (AtHand::Virtual(_), true, Some(report)) = (at_hand, counting, report) else {
        return Ok(HashMap::new());
    };
    {
        // The report is written when the last of the device's context is gone.
        let device = Device::open(ordinal).map_err(EngineError::from)?;
        let mut engine = CudaEngine::new(Arc::new(program.clone()), &device).map_err(EngineError::from)?;
        let len = program.input().map_or(0, |id| program.graph.values[id.0].len());
        engine.run(&seeded_values("input", len))?;
    }
    Ok(counters::read(&report).map_err(broken)?)
}

fn show(args: &ProfileArgs, profile: &Profile) -> Result<(), Error> {
    super::print(|out| {
        let [height, width] = profile.size;
        writeln!(out, "{}, {height}x{width}, {}; tiles by {}\n", profile.network, profile.precision, profile.tiles_by)?;
        if let Some(batch) = profile.batches.first() {
            writeln!(out, "batch {}:\n{}", batch.batch, launches_table(batch, 0, args.top))?;
            writeln!(out, "{}", rooms_table(batch, 0))?;
        }
        writeln!(out, "{}", cards_table(profile))?;
        profile.notes.iter().try_for_each(|note| writeln!(out, "{note}"))
    })
}

fn on_cpu(args: &ProfileArgs) -> Result<(), Error> {
    let batch = args.batch.first().copied().unwrap_or(1);
    let request = Request { batch: Some(usize::from(batch)), outputs: vec![Output::Labels], ..args.model.request() };
    let profile = cpu::measure(request.plan()?, args.model.threads(), request.isa(), args.measure.max(1))?;
    super::print(|out| {
        let input: Vec<String> = profile.input.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "{}, {}, {}; {} thread(s), {}, measured peak {:.0} GFLOP/s; medians of {} runs\n",
            profile.network,
            input.join("x"),
            profile.precision,
            profile.threads,
            profile.isa,
            profile.peak_gflops,
            profile.runs
        )?;
        write!(out, "{}", profile.table(args.top))
    })?;
    if let Some(folder) = &args.out {
        write_json(folder, "profile.json", &profile)?;
        write_json(folder, "trace.json", &profile.trace())?;
        let page = segface::profile::cpu_page(&profile, cpu::memory_gbs(profile.threads));
        write_page(folder, &page.map_err(|reason| EngineError::Profile { reason })?)?;
    }
    Ok(())
}

fn write_json(folder: &Path, name: &str, content: &impl Serialize) -> Result<(), ImageError> {
    write_output(&folder.join(name), |out| Ok(serde_json::to_writer_pretty(out, content)?))
}

fn write_page(folder: &Path, html: &str) -> Result<(), ImageError> {
    write_output(&folder.join("profile.html"), |out| out.write_all(html.as_bytes()))
}
