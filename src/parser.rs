//! From weights or an engine file to something that parses faces: the one way every command takes.

use crate::engine::{CpuEngine, EngineError, file};
use crate::weights::{self, Hints, Weights};
use crate::{Error, ModelSpec, Variant};
use segface_codegen::ir::Output;
use segface_codegen::passes::Pass;
use segface_codegen::plan::{CompileOptions, Plan, Precision, compile};
use segface_kernels::Isa;
use std::path::Path;
use std::sync::Arc;

/// Input side where neither the user nor the checkpoint says one: what most published networks were trained with.
pub const DEFAULT_RESOLUTION: usize = 512;

/// Which network, how and where it is to run.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// Weights (safetensors or .pt) or an engine file.
    pub weights: Option<&'a Path>,
    /// A model's name, see [`weights::resolve`].
    pub model: Option<&'a str>,
    /// The label set, where the file does not tell.
    pub variant: Option<Variant>,
    /// Height and width of the network's input; else what the checkpoint says, else [`DEFAULT_RESOLUTION`].
    pub size: Option<[usize; 2]>,
    /// Images in one run; 1 if not given.
    pub batch: Option<usize>,
    /// Element type; else the faster one on this CPU.
    pub precision: Option<Precision>,
    /// Instruction set; else the best this CPU has.
    pub isa: Option<Isa>,
    /// Passes to leave out.
    pub disabled: Vec<Pass>,
    /// What a run gives out; an engine file has its own.
    pub outputs: Vec<Output>,
}

impl Request<'_> {
    /// Compiles the network, or loads the engine file that `weights` names.
    ///
    /// # Errors
    /// Everything that can be wrong with files, names and sizes.
    pub fn plan(&self) -> Result<Plan, Error> {
        if let Some(path) = self.weights
            && file::is_engine(path)?
        {
            let plan = file::load(path)?;
            self.must_agree(path, &plan)?;
            return Ok(plan);
        }
        let weights = self.weights()?;
        let options = self.options(&weights);
        Ok(compile(&weights.spec, &weights, &options).map_err(EngineError::from)?)
    }

    /// The instruction set to run on.
    pub fn isa(&self) -> Isa {
        self.isa.unwrap_or_else(Isa::best)
    }

    /// The weights this request names.
    ///
    /// # Errors
    /// As [`weights::resolve`].
    pub fn weights(&self) -> Result<Weights, Error> {
        let resolution = self.size.map(|[height, _]| height);
        Ok(weights::resolve(self.weights, self.model, Hints { variant: self.variant, resolution })?)
    }

    /// What the compiler is asked for.
    pub fn options(&self, weights: &Weights) -> CompileOptions {
        let side = weights.resolution.unwrap_or(DEFAULT_RESOLUTION);
        let [height, width] = self.size.unwrap_or([side; 2]);
        CompileOptions {
            batch: self.batch.unwrap_or(1),
            height,
            width,
            precision: self.precision.unwrap_or_else(|| default_precision(self.isa())),
            outputs: if self.outputs.is_empty() { vec![Output::Logits] } else { self.outputs.clone() },
            disabled: self.disabled.clone(),
        }
    }

    /// An engine is compiled already: what the user asks for beside it must be what it is.
    fn must_agree(&self, path: &Path, plan: &Plan) -> Result<(), EngineError> {
        let shape = plan.input().map(|id| plan.graph.values[id.0].shape.clone()).unwrap_or_default();
        let (batch, size) = (shape[0], [shape[1], shape[2]]);
        let differs = |what: &str, have: String| EngineError::File {
            path: path.into(),
            reason: format!(
                "this engine was compiled for {what} {have}; compile another one, or leave that option out"
            ),
        };
        if self.size.is_some_and(|wanted| wanted != size) {
            return Err(differs("size", format!("{}x{}", size[0], size[1])));
        }
        if self.batch.is_some_and(|wanted| wanted != batch) {
            return Err(differs("batch", batch.to_string()));
        }
        if self.precision.is_some_and(|wanted| wanted != plan.precision) {
            return Err(differs("precision", plan.precision.name().into()));
        }
        if self.variant.is_some_and(|wanted| wanted != plan.model.variant) {
            return Err(differs("variant", plan.model.variant.to_string()));
        }
        match self.outputs.iter().find(|output| plan.output(**output).is_none()) {
            Some(output) => Err(EngineError::NoSuchOutput { output: *output }),
            None => Ok(()),
        }
    }
}

/// bf16 where the CPU multiplies it faster than f32, else f32.
pub fn default_precision(isa: Isa) -> Precision {
    match isa {
        Isa::Amx | Isa::Avx512Bf16 => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// A network ready to run on the CPU.
pub struct Parser {
    engine: CpuEngine,
}

impl Parser {
    /// Takes memory and starts threads for a plan.
    ///
    /// # Errors
    /// As [`CpuEngine::new`].
    pub fn new(plan: Plan, threads: usize, isa: Isa) -> Result<Self, Error> {
        Ok(Self { engine: CpuEngine::new(Arc::new(plan), threads, isa)? })
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        self.engine.plan().model
    }

    /// Batch, height and width of the input.
    pub fn input_shape(&self) -> [usize; 3] {
        let plan = self.engine.plan();
        let shape = plan.input().map(|id| &plan.graph.values[id.0].shape[..]).unwrap_or(&[0; 4]);
        [shape[0], shape[1], shape[2]]
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut CpuEngine {
        &mut self.engine
    }
}

/// Threads to use where the user does not say: what the operating system gives this process.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
