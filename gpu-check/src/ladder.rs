//! The ladders: one operator computed by a thread for each number, by tiles in shared memory, and by the kernels that networks use.

use crate::{Failure, emit};
use segface::engine::cuda::{CudaEngine, Device, Launching, median};
use segface::weights::seeded_values;
use segface_codegen::cuda::{Rung, compile_rung};
use segface_codegen::ir::{Graph, Op, Slot};
use segface_codegen::plan::Precision;
use segface_codegen::{Backbone, ModelSpec, Variant};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::mlp::MlpSpec;
use segface_kernels::mlp_fusion::MlpFusionSpec;
use segface_kernels::token_attention::ImagePassSpec;
use segface_kernels::window_attention::{WindowAttentionSpec, WindowCoreSpec, WindowKind, WindowPlan};
use segface_kernels::{Act, Epilogue};
use serde::Serialize;
use std::sync::Arc;

/// An operator with a ladder.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The ladder's name.
    pub name: &'static str,
    /// Its sizes, for people.
    pub shape: String,
    /// The operator.
    pub op: Op,
    /// Its rungs, lowest first; `None`, where it is one, is what networks use.
    pub rungs: &'static [Option<Rung>],
}

const LOWER: &[Option<Rung>] = &[Some(Rung::Naive), Some(Rung::Tiled)];
const UPPER: &[Option<Rung>] = &[Some(Rung::Tiled), None];
const ALL: &[Option<Rung>] = &[Some(Rung::Naive), Some(Rung::Tiled), None];

/// ε of the norms.
const EPS: f32 = 1e-5;

/// How large the problems are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Those of Swin-B at 512×512 with eight images.
    Network,
    /// As small as every rung still does something: for a virtual device.
    Tiny,
}

/// Every ladder.
pub fn problems(scale: Scale) -> Vec<Problem> {
    let tiny = scale == Scale::Tiny;
    let pick = |network: usize, small: usize| if tiny { small } else { network };
    let batch = pick(8, 1);
    let bias = Epilogue { bias: true, ..Epilogue::default() };

    let [rows, n, k] = [pick(8 * 1024, 70), pick(2048, 64), pick(512, 64)];
    let gemm = GemmSpec { rows, n, k, prologue: Prologue::None, epilogue: Epilogue { act: Act::Gelu, ..bias } };

    let [channels, hidden] = [pick(512, 64), pick(2048, 128)];
    let epilogue = Epilogue { residual: true, ..bias };
    let mlp = MlpSpec { rows, channels, hidden, norm: Some(EPS), act: Act::Gelu, epilogue };

    let (side, heads) = (pick(128, 10), pick(4, 2));
    let plan = WindowPlan::new([side, side], 7, 3);
    let (channels_of_heads, kind) = (32 * heads, WindowKind::V1);
    let core = WindowCoreSpec { batch, plan, channels: channels_of_heads, heads, kind };
    let fused = WindowAttentionSpec {
        batch,
        input: [side, side],
        channels: channels_of_heads,
        heads,
        window: plan.window,
        shift: plan.shift,
        kind,
        eps: EPS,
    };

    let base = pick(128, 8);
    let taps = [0, 1, 2, 3].map(|i| [base >> i, base >> i, base << i]);
    let fusion = MlpFusionSpec { batch, taps, width: 256 };

    let input = [pick(128, 6), pick(128, 6)];
    let pass = ImagePassSpec { batch, input, tokens: 19, update: true, attend: true, shared_attend: false, eps: EPS };

    let windows = format!("{batch} × {side}×{side}, {heads} heads, windows of 7, shifted");
    let problem = |name, shape, op, rungs| Problem { name, shape, op, rungs };
    vec![
        problem("gemm", format!("{rows}×{n}×{k}, bias, GELU"), Op::Gemm(gemm), ALL),
        problem("mlp", format!("{rows} rows, {channels} → {hidden} → {channels}, norm, residual"), Op::Mlp(mlp), ALL),
        problem("attention in windows", windows.clone(), Op::WindowCore(core), LOWER),
        problem("window attention", windows + ", with norm, qkv and projection", Op::WindowAttention(fused), UPPER),
        problem(
            "mlp fusion",
            format!("{batch} × {base}×{base}, widths {base}–{} → 256", 8 * base),
            Op::MlpFusion(fusion),
            ALL,
        ),
        problem(
            "image pass",
            format!("{batch} × {}×{}, 19 tokens, both ways", input[0], input[1]),
            Op::ImagePass(pass),
            ALL,
        ),
    ]
}

/// The name of a rung, in precisions that tensor cores compute.
pub fn rung_name(rung: Option<Rung>) -> &'static str {
    match rung {
        Some(Rung::Naive) => "naive",
        Some(Rung::Tiled) => "tiled",
        None => "tensor core",
    }
}

impl Problem {
    /// The operator on `device`, ready to be timed; and its floating-point operations.
    ///
    /// # Errors
    /// Without a compiler, or with too little memory.
    pub fn engine(
        &self,
        rung: Option<Rung>,
        precision: Precision,
        device: &Device,
    ) -> Result<(CudaEngine, u64), Failure> {
        let required = Graph::required_operands(&self.op)?;
        let numbers: Vec<Vec<f32>> = required.iter().map(|(slot, len)| numbers(*slot, *len)).collect();
        let shapes: Vec<[usize; 1]> = required.iter().map(|(_, len)| [*len]).collect();
        let operands: Vec<_> = required
            .iter()
            .zip(&shapes)
            .zip(&numbers)
            .map(|(((slot, _), shape), numbers)| (*slot, &shape[..], &numbers[..]))
            .collect();
        let graph = Graph::single(self.op, &operands, precision.dtype())?;
        let flops = graph.nodes.iter().map(|node| node.flops(&graph)).sum();
        // Which network a single operator is of plays no part.
        let model = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
        let program = compile_rung(model, precision, graph, rung);
        let mut engine = CudaEngine::new(Arc::new(program), device)?;
        engine.run(&[0.0])?;
        Ok((engine, flops))
    }
}

/// Values of a size that keeps every sum finite.
fn numbers(slot: Slot, len: usize) -> Vec<f32> {
    let spread = match slot {
        Slot::Weight | Slot::Weight1 | Slot::Weight2 | Slot::Weight3 => 0.05,
        _ => 0.5,
    };
    seeded_values(&format!("{slot:?}"), len).iter().map(|value| value * spread).collect()
}

#[derive(Serialize)]
struct Record<'a> {
    record: &'static str,
    ladder: &'a str,
    shape: &'a str,
    rung: &'static str,
    precision: &'static str,
    milliseconds: f64,
    gflops: f64,
    launches: usize,
}

/// Measures every rung of every ladder in bf16 and prints a record for each.
///
/// # Errors
/// If the device refuses.
pub fn run(device: &Device, scale: Scale) -> Result<(), Failure> {
    let precision = Precision::Bf16;
    for problem in problems(scale) {
        for &rung in problem.rungs {
            let (mut engine, flops) = problem.engine(rung, precision, device)?;
            let runs = if scale == Scale::Tiny { 1 } else { runs_for(&mut engine, 0.1)? };
            let milliseconds = median(engine.time_runs(Launching::Graph, runs)?);
            emit(&Record {
                record: "ladder",
                ladder: problem.name,
                shape: &problem.shape,
                rung: rung_name(rung),
                precision: precision.name(),
                milliseconds,
                gflops: flops as f64 / milliseconds / 1e6,
                launches: engine.program().launches.len(),
            })?;
        }
    }
    Ok(())
}

/// How many runs of the engine, warmed up by this, take about so many seconds; at least 5.
///
/// # Errors
/// If a launch fails.
pub fn runs_for(engine: &mut CudaEngine, seconds: f64) -> Result<usize, Failure> {
    let milliseconds = median(engine.time_runs(Launching::Graph, 3)?);
    Ok(((seconds * 1e3 / milliseconds.max(1e-3)) as usize).clamp(5, 500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_of_every_ladder_has_kernels_of_its_own() {
        for scale in [Scale::Tiny, Scale::Network] {
            // The networks' sizes are only checked, not filled: their operands take seconds to draw.
            for problem in problems(scale) {
                let required = Graph::required_operands(&problem.op).expect("a sane operator");
                assert!(!required.is_empty(), "{problem:?}");
            }
        }
        for problem in problems(Scale::Tiny) {
            let mut seen: Vec<Vec<String>> = Vec::new();
            for &rung in problem.rungs {
                let required = Graph::required_operands(&problem.op).expect("a sane operator");
                let numbers: Vec<Vec<f32>> = required.iter().map(|(slot, len)| numbers(*slot, *len)).collect();
                let shapes: Vec<[usize; 1]> = required.iter().map(|(_, len)| [*len]).collect();
                let operands: Vec<_> =
                    (0..required.len()).map(|i| (required[i].0, &shapes[i][..], &numbers[i][..])).collect();
                let graph = Graph::single(problem.op, &operands, Precision::Bf16.dtype()).expect("a graph");
                let model = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };
                let program = compile_rung(model, Precision::Bf16, graph, rung);
                let names: Vec<String> = program.kernels.iter().map(|kernel| kernel.name.clone()).collect();
                assert_eq!(names.iter().all(|name| name.contains("_rung_")), rung.is_some(), "{names:?}");
                assert!(!seen.contains(&names), "{}: {rung:?} runs what another rung runs", problem.name);
                seen.push(names);
            }
        }
    }
}
