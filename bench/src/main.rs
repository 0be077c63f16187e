//! `cargo xtask bench`: one table, ours against libtorch eager on the same threads.
//!
//! Times are medians of runs that take turns (libtorch, ours f32, ours bf16, libtorch, …), so that a machine whose speed
//! drifts changes all of them alike. The peak is a register-only loop measured between the runs. GFLOP/s and share of the
//! peak count the folded plan's operations for both, so that libtorch is not credited with work that the algebra saves.
//! Errors are relative L2 distances of the logits to libtorch's in f64. Memory is the peak of a process of its own that loads
//! the network and runs it three times, above what the process had before it.

mod memory;

use clap::Parser;
use segface::engine::CpuEngine;
use segface::parser::Request;
use segface::tensors::{channels_first, channels_last};
use segface::weights::{Weights, seeded, seeded_values};
use segface::{Backbone, ModelSpec, Variant};
use segface_codegen::ir::Output;
use segface_codegen::plan::{Plan, Precision, compile};
use segface_kernels::{Isa, peak};
use segface_reference::Model;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

/// Ours against libtorch eager: time, share of peak, memory and error.
#[derive(Parser)]
struct Args {
    /// Only these cases, e.g. mobilenet@512 (repeatable)
    #[arg(long)]
    case: Vec<String>,
    /// Threads (repeatable) [default: 1 and 2]
    #[arg(long)]
    threads: Vec<usize>,
    /// Rounds; every engine runs once in each
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Leave out the comparison with f64, which takes long
    #[arg(long)]
    no_error: bool,
    /// Measure the peak memory of one engine (torch, f32 or bf16) in this process and print it in bytes
    #[arg(long, hide = true)]
    memory: Option<String>,
}

/// One network at one size.
#[derive(Clone, Copy)]
struct Case {
    backbone: Backbone,
    size: usize,
}

const CASES: [Case; 4] = [
    Case { backbone: Backbone::MobileNet, size: 512 },
    Case { backbone: Backbone::SwinBase, size: 224 },
    Case { backbone: Backbone::SwinBase, size: 512 },
    Case { backbone: Backbone::ConvNextBase, size: 512 },
];

impl Case {
    fn name(self) -> String {
        format!("{}@{}", self.backbone, self.size)
    }

    fn parse(text: &str) -> Result<Case, String> {
        let (backbone, size) = text.split_once('@').ok_or(format!("`{text}` is no case like mobilenet@512"))?;
        let size = size.parse().map_err(|_| format!("`{size}` is no size"))?;
        Ok(Case { backbone: backbone.parse()?, size })
    }

    fn weights(self) -> Weights {
        seeded(ModelSpec { backbone: self.backbone, variant: Variant::Celeb })
    }

    /// [1, 3, size, size]
    fn input(self) -> Vec<f32> {
        seeded_values("input", 3 * self.size * self.size).iter().map(|v| 2.0 * v).collect()
    }

    fn plan(self, weights: &Weights, precision: Precision) -> Result<Plan, Box<dyn Error>> {
        let request = Request {
            size: Some([self.size; 2]),
            precision: Some(precision),
            outputs: vec![Output::Logits],
            ..Request::default()
        };
        Ok(compile(&weights.spec, weights, &request.options(weights))?)
    }
}

/// One line of the table.
struct Row {
    engine: &'static str,
    milliseconds: f64,
    plan_gflop: f64,
    peak: f64,
    memory: Option<u64>,
    error: Option<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let cases: Vec<Case> = match args.case.is_empty() {
        true => CASES.to_vec(),
        false => args.case.iter().map(|c| Case::parse(c)).collect::<Result<_, _>>()?,
    };
    if let Some(engine) = &args.memory {
        println!("{}", memory::measure_here(cases[0], engine)?);
        return Ok(());
    }
    let threads = if args.threads.is_empty() { vec![1, 2] } else { args.threads.clone() };
    println!("instruction set {}, {} rounds, batch 1, medians\n", Isa::best().name(), args.rounds);
    println!(
        "| network | threads | engine | ms | speed-up | plan GFLOP | GFLOP/s | of peak | peak memory MB | rel. L2 error |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for case in cases {
        let weights = case.weights();
        let truth = if args.no_error { None } else { Some(truth(case, &weights)?) };
        for &threads in &threads {
            let rows = run(case, &weights, threads, args.rounds, truth.as_deref())?;
            print(case, threads, &rows);
        }
    }
    Ok(())
}

/// Logits in f64, [1, T, h, w].
fn truth(case: Case, weights: &Weights) -> Result<Vec<f64>, Box<dyn Error>> {
    let _guard = tch::no_grad_guard();
    let input = Tensor::from_slice(&case.input()).view([1, 3, case.size as i64, case.size as i64]);
    let outputs = Model::new(weights.spec, weights, Kind::Double).forward(&input, None)?;
    Ok(Vec::try_from(outputs.logits.flatten(0, -1))?)
}

fn run(
    case: Case,
    weights: &Weights,
    threads: usize,
    rounds: usize,
    truth: Option<&[f64]>,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let _guard = tch::no_grad_guard();
    tch::set_num_threads(threads as i32);
    let isa = Isa::best();
    let planar = case.input();
    let interleaved = channels_last(&planar, 1, 3, case.size * case.size);
    let input = Tensor::from_slice(&planar).view([1, 3, case.size as i64, case.size as i64]);
    let torch = Model::new(weights.spec, weights, Kind::Float);
    let plans = [case.plan(weights, Precision::F32)?, case.plan(weights, Precision::Bf16)?];
    let plan_gflop = plans[0].flops() as f64 / 1e9;
    let [f32_plan, bf16_plan] = plans;
    let mut ours =
        [CpuEngine::new(Arc::new(f32_plan), threads, isa)?, CpuEngine::new(Arc::new(bf16_plan), threads, isa)?];

    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut peaks = [Vec::new(), Vec::new()];
    let mut torch_logits = Vec::new();
    for round in 0..rounds + 1 {
        let mut measured = [0.0; 3];
        let begin = Instant::now();
        let outputs = torch.forward(&input, None)?;
        measured[0] = begin.elapsed().as_secs_f64() * 1e3;
        if round == 0 && truth.is_some() {
            torch_logits = Vec::<f32>::try_from(outputs.logits.flatten(0, -1))?;
        }
        drop(outputs);
        for (engine, time) in ours.iter_mut().zip(&mut measured[1..]) {
            let begin = Instant::now();
            engine.run(&interleaved)?;
            *time = begin.elapsed().as_secs_f64() * 1e3;
        }
        for (peaks, dtype) in peaks.iter_mut().zip([Precision::F32, Precision::Bf16]) {
            peaks.push(peak::gflops(isa, dtype.dtype()) * threads as f64);
        }
        // The first round warms caches and allocators up.
        if round > 0 {
            times.iter_mut().zip(measured).for_each(|(all, one)| all.push(one));
        }
    }
    let mut errors = [None; 3];
    if let Some(truth) = truth {
        errors[0] = Some(relative_error(&torch_logits, truth));
        for (engine, error) in ours.iter_mut().zip(&mut errors[1..]) {
            let (shape, logits) = engine.output(Output::Logits)?;
            *error = Some(relative_error(&channels_first(&logits, 1, shape[3], shape[1] * shape[2]), truth));
        }
    }
    let [f32_peak, bf16_peak] = peaks.map(median);
    let [torch_time, f32_time, bf16_time] = times.map(median);
    let row = |engine, milliseconds, peak, error| Row {
        engine,
        milliseconds,
        plan_gflop,
        peak,
        memory: memory::of(case, engine, threads),
        error,
    };
    Ok(vec![
        row("libtorch f32", torch_time, f32_peak, errors[0]),
        row("segface f32", f32_time, f32_peak, errors[1]),
        row("segface bf16", bf16_time, bf16_peak, errors[2]),
    ])
}

fn relative_error(ours: &[f32], truth: &[f64]) -> f64 {
    let distance: f64 = ours.iter().zip(truth).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    (distance / truth.iter().map(|b| b * b).sum::<f64>()).sqrt()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(case: Case, threads: usize, rows: &[Row]) {
    for row in rows {
        let rate = row.plan_gflop / row.milliseconds * 1e3;
        println!(
            "| {} | {threads} | {} | {:.1} | {:.2}x | {:.1} | {rate:.0} | {:.0} % | {} | {} |",
            case.name(),
            row.engine,
            row.milliseconds,
            rows[0].milliseconds / row.milliseconds,
            row.plan_gflop,
            100.0 * rate / row.peak,
            row.memory.map_or("–".into(), |bytes| format!("{:.0}", bytes as f64 / 1e6)),
            row.error.map_or("–".into(), |error| format!("{error:.1e}")),
        );
    }
}
