//! The tuner and counters, on the device of this suite: a virtual one where there is no other, so times mean nothing here.

use super::device;
use segface::engine::EngineError;
use segface::engine::cuda::tune::{Cache, Effort, permit, tune, tuning_with};
use segface::engine::cuda::{CudaEngine, Device};
use segface::profile::{Batch, Known, counters};
use segface::weights::seeded_values;
use segface_codegen::cuda::card::Card;
use segface_codegen::cuda::tile::candidates;
use segface_codegen::cuda::{Program, Tuning, compile_graph, compile_graph_tuned};
use segface_codegen::ir::{Graph, Op, Output, Slot};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::Epilogue;
use segface_kernels::conv::ConvSpec;
use segface_kernels::gemm::{GemmSpec, Prologue};
use std::process::Command;
use std::sync::Arc;

const MODEL: ModelSpec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
const ONCE: Effort = Effort { repeats: 2, rounds: 1 };

/// A product of [rows, k] with [n, k]; `seed` draws the weights.
fn product([rows, n, k]: [usize; 3], norm: bool, prologue: Prologue, seed: &str) -> Graph {
    let epilogue = Epilogue { bias: true, norm: norm.then_some(1e-5), ..Epilogue::default() };
    let op = Op::Gemm(GemmSpec { rows, n, k, prologue, epilogue });
    let (x, weight, vector) =
        (seeded_values("x", rows * k), seeded_values(seed, n * k), seeded_values("vector", n.max(k)));
    let mut operands: Vec<(Slot, &[usize], &[f32])> = Vec::new();
    let (x_shape, weight_shape, n_shape, k_shape) = ([rows, k], [n, k], [n], [k]);
    operands.extend([(Slot::X, &x_shape[..], &x[..]), (Slot::Weight, &weight_shape[..], &weight[..])]);
    operands.push((Slot::Bias, &n_shape, &vector[..n]));
    if norm {
        operands.extend([
            (Slot::PostNormWeight, &n_shape[..], &vector[..n]),
            (Slot::PostNormBias, &n_shape[..], &vector[..n]),
        ]);
    }
    if prologue != Prologue::None {
        operands.extend([(Slot::NormWeight, &k_shape[..], &vector[..k]), (Slot::NormBias, &k_shape[..], &vector[..k])]);
    }
    Graph::single(op, &operands, segface_kernels::DType::Bf16).expect("a sound product")
}

fn results(device: &Device, program: Program) -> Vec<f32> {
    let mut engine = CudaEngine::new(Arc::new(program), device).expect("kernels that compile");
    engine.run(&[0.0]).expect("kernels that run");
    engine.output(Output::Stage(0)).expect("a result").1
}

#[test]
fn the_tuner_measures_every_candidate_keeps_the_fastest_and_finds_it_again() {
    let Some(device) = device() else { return eprintln!("without a device: nothing to tune on") };
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::within(folder.path(), device).unwrap();
    assert_eq!(cache, Cache::within(folder.path(), device).unwrap(), "the same device and kernels, the same file");
    let before = tuning_with(device, Some(&cache)).unwrap();
    assert!(before.measured_on.is_none() && before.tiles.is_empty());
    let mut all = Vec::new();
    for (sides, norm) in [([100, 72, 64], false), ([70, 200, 96], true)] {
        let graph = product(sides, norm, Prologue::None, "weight");
        let mut compile = |tuning: &Tuning| compile_graph_tuned(MODEL, Precision::Bf16, graph.clone(), tuning);
        let mut told = 0;
        let measured = tune(device, ONCE, &mut compile, &mut |_, count| told += count).unwrap();
        assert_eq!((measured.len(), told), (1, 1));
        let product = &measured[0];
        let tiles: Vec<_> = product.candidates.iter().map(|(tile, _)| *tile).collect();
        assert_eq!(tiles, candidates(&product.problem));
        let least = product.candidates.iter().map(|(_, time)| *time).fold(f64::INFINITY, f64::min);
        assert!(least > 0.0 && product.candidates.iter().any(|(tile, time)| *tile == product.best && *time == least));
        // Every candidate computes the same numbers, but for where sums of a norm are cut.
        let program = |tile| {
            let tiles = [(product.problem.clone(), tile)].into();
            compile_graph_tuned(MODEL, Precision::Bf16, graph.clone(), &Tuning { tiles, ..Tuning::default() })
        };
        let first = results(device, program(tiles[0]));
        for tile in &tiles[1..] {
            let other = results(device, program(*tile));
            let apart = first.iter().zip(&other).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f32::max);
            assert!(apart <= if norm { 1.0 / 64.0 } else { 0.0 }, "{}: {tile:?} is off by {apart}", product.problem);
        }
        cache.store(&measured);
        all.extend(measured);
    }
    let after = tuning_with(device, Some(&cache)).unwrap();
    assert_eq!(after.measured_on.as_deref(), Some(device.name()));
    for product in &all {
        assert_eq!(after.tiles.get(&product.problem), Some(&product.best), "the second store kept the first");
    }
    let graph = product([100, 72, 64], false, Prologue::None, "weight");
    let program = compile_graph_tuned(MODEL, Precision::Bf16, graph, &after);
    assert_eq!(program.choices[0].tile, all[0].best);
    assert!(program.chosen_by.contains("measurements of 2 products"), "{}", program.chosen_by);
    // What is no such file is no reason to fail.
    std::fs::write(&cache.path, "cut o").unwrap();
    assert!(tuning_with(device, Some(&cache)).unwrap().tiles.is_empty());
}

#[test]
fn a_candidate_that_computes_something_else_is_found() {
    let Some(device) = device() else { return eprintln!("without a device: nothing to tune on") };
    let mut compiled = 0;
    let mut compile = |tuning: &Tuning| {
        compiled += 1;
        // The first is for the problems, the second the first variant, the third has other weights.
        let graph = product([32, 16, 64], false, Prologue::None, if compiled == 3 { "other" } else { "weight" });
        compile_graph_tuned(MODEL, Precision::Bf16, graph, tuning)
    };
    match tune(device, ONCE, &mut compile, &mut |_, _| {}) {
        Err(EngineError::Profile { reason }) => assert!(reason.contains("is off by"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_virtual_device_is_tuned_on_only_when_forced() {
    let Some(device) = device() else { return eprintln!("without a device: nothing to ask") };
    if !device.is_virtual().unwrap() {
        return assert!(matches!(permit(device, false), Ok(None)));
    }
    assert!(permit(device, false).unwrap_err().to_string().contains("--force"));
    assert!(permit(device, true).unwrap().unwrap().contains("say nothing of a card"));
}

#[test]
fn every_launch_and_the_whole_run_are_timed_by_events() {
    let Some(device) = device() else { return eprintln!("without a device: nothing to time") };
    let graph = product([100, 72, 64], false, Prologue::None, "weight");
    let program = compile_graph(MODEL, Precision::Bf16, graph);
    let mut batch = Batch::predict(&program, 1, &[Card::default()], &Known::default());
    assert!(batch.measured.is_none() && batch.launches[0].measured.is_none());
    let before = results(device, program.clone());
    let mut engine = CudaEngine::new(Arc::new(program), device).unwrap();
    batch.measure(&mut engine, 3).unwrap();
    assert!(batch.measured.is_some_and(|time| time > 0.0), "{:?}", batch.measured);
    assert!(batch.launches[0].measured.is_some_and(|time| time > 0.0), "{:?}", batch.launches[0].measured);
    engine.run(&[0.0]).unwrap();
    assert_eq!(engine.output(Output::Stage(0)).unwrap().1, before, "the engine is as good as before");
}

/// Programs whose traffic is counted, with how many times the bytes of the model the sectors may be: the model knows of operands
/// and results, not of biases, nor of γ and β, which every chunk of a normed row reads, from the first cache.
fn counted_programs() -> Vec<(Program, f64)> {
    let norm = Prologue::LayerNorm { eps: 1e-5 };
    let spec = ConvSpec {
        batch: 1,
        input: [32, 32],
        channels: 32,
        out_channels: 64,
        kernel: 3,
        stride: 1,
        padding: 1,
        epilogue: Epilogue::default(),
    };
    let depth = 9 * 32;
    let (x, weight) = (seeded_values("x", 32 * 32 * 32), seeded_values("weight", 64 * depth));
    let conv = Graph::single(
        Op::Conv(spec),
        &[(Slot::X, &[1, 32, 32, 32], &x), (Slot::Weight, &[64, depth], &weight)],
        segface_kernels::DType::Bf16,
    );
    let graphs = [
        (product([1024, 192, 256], false, Prologue::None, "weight"), 1.1),
        (product([1024, 192, 256], false, norm, "weight"), 1.5),
        (conv.expect("a sound convolution"), 1.1),
    ];
    graphs.map(|(graph, more)| (compile_graph(MODEL, Precision::Bf16, graph), more)).into()
}

/// Runs in a process of its own, whose driver counts: see below.
#[test]
#[ignore = "a part of the test below"]
fn counted_child() {
    let device = device().expect("the parent has one");
    for (program, _) in counted_programs() {
        results(device, program);
    }
}

#[test]
fn products_move_the_bytes_that_their_tiles_are_chosen_by() {
    let Some(device) = device() else { return eprintln!("without a device: nothing to count") };
    if !device.is_virtual().unwrap() {
        return eprintln!("a real device does not count");
    }
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "device::counted_child", "--ignored"]);
    let run = child.env("PTXVM_MODE", "profile").env("PTXVM_REPORT", &report).env("PTXVM_LOG", "off").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    let counted = counters::read(&report).unwrap();
    for (program, more) in counted_programs() {
        let launch = &program.launches[0];
        let name = &program.kernels[launch.kernel].name;
        let blocks = f64::from(launch.grid.iter().product::<u32>());
        let counters = counted[name].of_blocks(blocks);
        let ratio = counters.counted().sector_bytes / launch.detail.traffic as f64;
        assert!((0.9..=more).contains(&ratio), "{name}: {ratio:.3} times the sectors that the model knows of");
        // The products' arithmetic, with what tiles make beside the matrix.
        assert!(2.0 * counters.macs >= launch.flops as f64, "{name}");
        assert_eq!(counters.bank_conflicts, 0.0, "{name}");
    }
}
