//! Running compiled networks: on the CPU, on CUDA devices, and from engine files.

pub(crate) mod call;
mod container;
pub(crate) mod cpu;
pub mod cuda;
mod error;
pub mod file;
mod validate;

pub use container::Kind;
pub use cpu::CpuEngine;
pub use error::EngineError;

use cuda::CudaEngine;
use segface_codegen::ModelSpec;
use segface_codegen::ir::{Graph, Output};
use segface_codegen::plan::Precision;

/// A compiled network with its memory, wherever it runs.
pub enum Engine {
    /// On this CPU.
    Cpu(CpuEngine),
    /// On a CUDA device.
    Cuda(CudaEngine),
}

impl Engine {
    /// Which network.
    pub fn model(&self) -> ModelSpec {
        match self {
            Engine::Cpu(engine) => engine.plan().model,
            Engine::Cuda(engine) => engine.program().model,
        }
    }

    /// Element type of activations, and how products are computed.
    pub fn precision(&self) -> Precision {
        match self {
            Engine::Cpu(engine) => engine.plan().precision,
            Engine::Cuda(engine) => engine.program().precision,
        }
    }

    /// The calls it runs.
    pub fn graph(&self) -> &Graph {
        match self {
            Engine::Cpu(engine) => &engine.plan().graph,
            Engine::Cuda(engine) => &engine.program().graph,
        }
    }

    /// `cpu`, or the CUDA device's name.
    pub fn device(&self) -> &str {
        match self {
            Engine::Cpu(_) => "cpu",
            Engine::Cuda(engine) => engine.device().name(),
        }
    }

    /// Shape of the input: [batch, height, width, 3].
    pub fn input_shape(&self) -> Vec<usize> {
        let id = match self {
            Engine::Cpu(engine) => engine.plan().input(),
            Engine::Cuda(engine) => engine.program().input(),
        };
        id.map(|id| self.graph().values[id.0].shape.clone()).unwrap_or_default()
    }

    /// Shape of an output, if it is given out; channels last.
    pub fn output_shape(&self, output: Output) -> Option<&[usize]> {
        let graph = self.graph();
        let (_, id) = graph.outputs.iter().find(|(given, _)| *given == output)?;
        Some(&graph.values[id.0].shape)
    }

    /// Runs the network on `input` [batch, height, width, 3], normalised.
    ///
    /// # Errors
    /// If the input has another length than the network's, or the device fails.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        match self {
            Engine::Cpu(engine) => engine.run(input),
            Engine::Cuda(engine) => engine.run(input),
        }
    }

    /// An output of the last run as f32, channels last, with its shape. Labels come as numbers.
    ///
    /// # Errors
    /// If the network was not compiled to give it out, or the device fails.
    pub fn output(&mut self, output: Output) -> Result<(Vec<usize>, Vec<f32>), EngineError> {
        match self {
            Engine::Cpu(engine) => engine.output(output),
            Engine::Cuda(engine) => engine.output(output),
        }
    }

    /// The logits of the last run, [batch, 4h, 4w, T].
    ///
    /// # Errors
    /// As [`Engine::output`].
    pub fn logits(&mut self) -> Result<&[f32], EngineError> {
        match self {
            Engine::Cpu(engine) => engine.logits(),
            Engine::Cuda(engine) => engine.logits(),
        }
    }
}
