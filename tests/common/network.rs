//! Our engine on the tensors of a whole-network test, the way `segface logits` goes.

use crate::cuda::device;
use crate::operand::to_nhwc;
use segface::engine::{Engine, EngineError, cuda::CudaEngine};
use segface::{parser::Parser, tensors, tensors::Batch, weights::Weights};
use segface_codegen::{
    ir::Output,
    passes::Pass,
    plan::{CompileOptions, Precision, compile},
};
use segface_kernels::Isa;
use segface_reference::Outputs;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// How a network is compiled and run.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// Element type of weights and activations.
    pub precision: Precision,
    /// Instruction set.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// Passes left out.
    pub disabled: Vec<Pass>,
    /// Whether it runs on the suite's CUDA device instead.
    pub cuda: bool,
}

impl Setup {
    /// What a user gets on this machine, with two threads.
    pub fn usual(precision: Precision) -> Setup {
        Setup { precision, isa: Isa::best(), threads: 2, disabled: Vec::new(), cuda: false }
    }

    /// The suite's CUDA device.
    pub fn cuda(precision: Precision) -> Setup {
        Setup { cuda: true, ..Setup::usual(precision) }
    }
}

const OUTPUTS: [Output; 7] = [
    Output::Logits,
    Output::Tokens,
    Output::Fused,
    Output::Stage(0),
    Output::Stage(1),
    Output::Stage(2),
    Output::Stage(3),
];

/// Everything our engine gives out for `input` [N, 3, H, W], as the reference gives it, in f64.
///
/// Networks that warp need `landmarks` [N, 5, 2]. Panics if the engine refuses.
pub fn run(weights: &Weights, input: &Tensor, landmarks: Option<&Tensor>, setup: &Setup) -> Outputs {
    let (count, _, height, width) = input.size4().expect("an input is [N, 3, H, W]");
    let [count, height, width] = [count, height, width].map(|n| n as usize);
    let what = format!("{} at {count}x{height}x{width}, {setup:?}", weights.spec);
    let options = CompileOptions {
        batch: count,
        height,
        width,
        precision: setup.precision,
        outputs: OUTPUTS.to_vec(),
        disabled: setup.disabled.clone(),
    };
    let mut parser = parser(weights, &options, setup).unwrap_or_else(|e| panic!("{what}: {e}"));
    let batch = Batch {
        shape: [count, height, width],
        input: floats(&to_nhwc(input)),
        landmarks: landmarks.map(|points| {
            let faces = floats(points);
            faces.chunks_exact(10).map(|face| [0, 1, 2, 3, 4].map(|i| [face[2 * i], face[2 * i + 1]])).collect()
        }),
    };
    let results = tensors::run(&mut parser, &batch, &OUTPUTS).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut results = results.into_iter().map(|result| {
        let shape: Vec<i64> = result.shape.iter().map(|&n| n as i64).collect();
        Tensor::from_slice(&result.data).view(shape.as_slice()).to_kind(Kind::Double)
    });
    let mut next = || results.next().expect("as many results as outputs");
    Outputs { logits: next(), tokens: next(), fused: next(), taps: [next(), next(), next(), next()] }
}

fn parser(weights: &Weights, options: &CompileOptions, setup: &Setup) -> Result<Parser, segface::Error> {
    if !setup.cuda {
        let plan = compile(&weights.spec, weights, options).map_err(EngineError::from)?;
        return Parser::new(plan, setup.threads, setup.isa);
    }
    let program = segface_codegen::cuda::compile(&weights.spec, weights, options, &mut |_| {});
    let engine = CudaEngine::new(Arc::new(program.map_err(EngineError::from)?), device()).map_err(EngineError::from)?;
    Ok(Parser::with_engine(Engine::Cuda(engine), setup.threads, setup.isa))
}

/// Elements in row-major order as f32.
fn floats(x: &Tensor) -> Vec<f32> {
    Vec::try_from(x.to_kind(Kind::Float).flatten(0, -1)).expect("a vector of f32")
}
