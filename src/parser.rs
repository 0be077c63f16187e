//! From weights or an engine file to something that parses faces: the one way every command takes.

use crate::engine::cuda::{Compiler, CudaEngine, CudaError, CudaFile, CudaNetwork, Device, devices, tune};
use crate::engine::{CpuEngine, Engine, EngineError, Kind, file};
use crate::weights::{self, Hints, Weights};
use crate::{Error, ModelSpec, Variant};
use segface_codegen::cuda::{Program, Tuning};
use segface_codegen::ir::{Graph, Output, Source};
use segface_codegen::passes::Pass;
use segface_codegen::plan::{CompileOptions, Plan, Precision, compile};
use segface_kernels::Isa;
use std::path::Path;
use std::str::FromStr;
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
        match self.engine_file()? {
            Some((path, Kind::Cpu)) => {
                let plan = file::load(path)?;
                self.must_agree(path, &plan.graph, plan.model, plan.precision)?;
                return Ok(plan);
            }
            Some((path, Kind::Cuda)) => return Err(for_other_device(path, "CUDA devices", "cuda")),
            None => {}
        }
        let weights = self.weights()?;
        let options = self.options(&weights);
        Ok(compile(&weights.spec, &weights, &options).map_err(EngineError::from)?)
    }

    /// Compiles the network for CUDA devices.
    ///
    /// # Errors
    /// As [`Request::plan`].
    pub fn program(&self) -> Result<Program, Error> {
        self.program_tuned(&Tuning::default())
    }

    /// The same with tiles chosen by `tuning`.
    ///
    /// # Errors
    /// As [`Request::plan`].
    pub fn program_tuned(&self, tuning: &Tuning) -> Result<Program, Error> {
        let weights = self.weights()?;
        let options = CompileOptions {
            // As fast as f16, and no activation of any network can overflow it.
            precision: self.precision.unwrap_or(Precision::Bf16),
            ..self.options(&weights)
        };
        let program = segface_codegen::cuda::compile_tuned(&weights.spec, &weights, &options, tuning);
        Ok(program.map_err(EngineError::from)?)
    }

    /// Makes the network ready on CUDA devices, from weights or from an engine file: an engine for each.
    fn on_cuda(&self, chosen: Devices) -> Result<Vec<CudaEngine>, Error> {
        let devices = chosen.open().map_err(EngineError::from)?;
        let several = devices.len() > 1;
        let named = |device: &Device, error| match several {
            true => EngineError::OnDevice { device: device.label(), error },
            false => error.into(),
        };
        let engine = |device: &Device, network: Result<CudaNetwork, CudaError>| {
            let engine = network.and_then(|network| CudaEngine::of(Arc::new(network)));
            engine.map_err(|error| named(device, error))
        };
        let engines: Result<Vec<CudaEngine>, EngineError> = match self.engine_file()? {
            Some((path, Kind::Cpu)) => return Err(for_other_device(path, "the CPU", "cpu")),
            Some((path, Kind::Cuda)) => {
                let file = CudaFile::load(path)?;
                self.must_agree(path, &file.program.graph, file.program.model, file.program.precision)?;
                devices.iter().map(|device| engine(device, CudaNetwork::from_file(&file, device))).collect()
            }
            None => {
                // Devices of one kind are given the same kernels.
                let mut programs: Vec<(Tuning, Arc<Program>)> = Vec::new();
                let mut engines = Vec::new();
                for device in &devices {
                    let tuning = tune::tuning(device).map_err(|error| named(device, error))?;
                    let known = programs.iter().find(|(known, _)| *known == tuning);
                    let program = match known {
                        Some((_, program)) => Arc::clone(program),
                        None => {
                            let program = Arc::new(self.program_tuned(&tuning)?);
                            programs.push((tuning, Arc::clone(&program)));
                            program
                        }
                    };
                    engines.push(engine(device, CudaNetwork::new(program, device)));
                }
                engines.into_iter().collect()
            }
        };
        Ok(engines?)
    }

    /// The engine file that `weights` names, if it is one, and what it is for.
    fn engine_file(&self) -> Result<Option<(&Path, Kind)>, EngineError> {
        let Some(path) = self.weights else { return Ok(None) };
        Ok(file::kind(path)?.map(|kind| (path, kind)))
    }

    /// Whether [`Target::Auto`] means a CUDA device: where there is one that the kernels can run on and a compiler for them,
    /// unless the request names an engine for the CPU or an instruction set of it.
    fn prefers_cuda(&self) -> Result<bool, Error> {
        match self.engine_file()? {
            Some((_, kind)) => return Ok(kind == Kind::Cuda),
            None if self.isa.is_some() => return Ok(false),
            None => {}
        }
        let usable = Device::open(0).and_then(|_| Compiler::find().map(|_| ()));
        match usable {
            Ok(()) => Ok(true),
            Err(CudaError::NoDriver | CudaError::NoDevice { .. }) => Ok(false),
            Err(error) => {
                tracing::warn!("running on the CPU: {error}");
                Ok(false)
            }
        }
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
    fn must_agree(
        &self,
        path: &Path,
        graph: &Graph,
        model: ModelSpec,
        precision: Precision,
    ) -> Result<(), EngineError> {
        let input = graph.values.iter().find(|value| matches!(value.source, Source::Input));
        let Some(&[batch, height, width, _]) = input.map(|value| &value.shape[..]) else {
            return Err(EngineError::Broken { reason: "its input is no batch of images".into() });
        };
        let size = [height, width];
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
        if self.precision.is_some_and(|wanted| wanted != precision) {
            return Err(differs("precision", precision.name().into()));
        }
        if self.variant.is_some_and(|wanted| wanted != model.variant) {
            return Err(differs("variant", model.variant.to_string()));
        }
        let given = |output: &&Output| graph.outputs.iter().any(|(given, _)| given == *output);
        match self.outputs.iter().find(|output| !given(output)) {
            Some(output) => Err(EngineError::NoSuchOutput { output: *output }),
            None => Ok(()),
        }
    }
}

fn for_other_device(path: &Path, made_for: &str, device: &str) -> Error {
    let reason =
        format!("this engine was compiled for {made_for}; use `--device {device}`, or give the weights themselves");
    EngineError::File { path: path.into(), reason }.into()
}

/// bf16 where the CPU multiplies it faster than f32, else f32.
pub fn default_precision(isa: Isa) -> Precision {
    match isa {
        Isa::Amx | Isa::Avx512Bf16 => Precision::Bf16,
        _ => Precision::F32,
    }
}

/// Where a network is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// A CUDA device where there is one and a compiler for it, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of that number.
    Cuda(usize),
    /// Several CUDA devices, which share photos.
    CudaEach(Devices),
}

/// CUDA devices by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// Every one that the kernels can run on.
    All,
    /// Those whose bit is set; numbers below 64.
    Numbered(u64),
}

impl Devices {
    /// Only that one.
    fn one(ordinal: usize) -> Self {
        Devices::Numbered(1 << ordinal)
    }

    /// Opens them, in the order of their numbers. Of all, those that are too old are passed over with a warning.
    fn open(self) -> Result<Vec<Device>, CudaError> {
        let mask = match self {
            Devices::Numbered(mask) => mask,
            Devices::All => u64::MAX.checked_shr(64 - devices()?.min(64) as u32).unwrap_or(0),
        };
        if mask == 0 {
            return Err(CudaError::NoDevice { wanted: 0, found: 0 });
        }
        let (mut opened, mut too_old) = (Vec::new(), None);
        for ordinal in (0..64).filter(|ordinal| mask & 1 << ordinal != 0) {
            match Device::open(ordinal) {
                Err(error @ CudaError::OldDevice { .. }) if self == Devices::All => {
                    tracing::warn!("cuda:{ordinal} is not used: {error}");
                    too_old = Some(error);
                }
                device => opened.push(device?),
            }
        }
        match (opened.is_empty(), too_old) {
            (true, Some(error)) => Err(error),
            _ => Ok(opened),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || {
            format!("`{text}` is no device; expected auto, cpu, cuda, cuda:NUMBER, cuda:NUMBER,NUMBER,... or cuda:all")
        };
        let number = |part: &str| part.parse::<usize>().ok().filter(|number| *number < 64).ok_or_else(bad);
        match text.split_once(':') {
            None if text == "auto" => Ok(Target::Auto),
            None if text == "cpu" => Ok(Target::Cpu),
            None if text == "cuda" => Ok(Target::Cuda(0)),
            Some(("cuda", "all")) => Ok(Target::CudaEach(Devices::All)),
            Some(("cuda", numbers)) => {
                let numbers = numbers.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
                match numbers[..] {
                    [one] => Ok(Target::Cuda(one)),
                    _ => Ok(Target::CudaEach(Devices::Numbered(numbers.iter().fold(0, |mask, one| mask | 1 << one)))),
                }
            }
            _ => Err(bad()),
        }
    }
}

/// A network ready to run where it was asked to.
pub enum Ready {
    /// On this CPU.
    Cpu(CpuEngine),
    /// On CUDA devices: an engine on each.
    Cuda(Vec<CudaEngine>),
}

impl Ready {
    /// Compiles or loads what `request` names and makes it ready on `target`; what is left to the CPU has `threads` threads.
    ///
    /// # Errors
    /// Everything that can be wrong with files, names, sizes and devices.
    pub fn open(request: &Request<'_>, target: Target, threads: usize) -> Result<Self, Error> {
        let engines = match target {
            Target::Cpu => None,
            Target::Cuda(ordinal) => Some(request.on_cuda(Devices::one(ordinal))?),
            Target::CudaEach(devices) => Some(request.on_cuda(devices)?),
            Target::Auto if request.prefers_cuda()? => match request.on_cuda(Devices::one(0)) {
                // A device that cannot be used is no reason to fail where any device will do.
                Err(Error::Engine(EngineError::Cuda(error))) if request.engine_file()?.is_none() => {
                    tracing::warn!("running on the CPU: {error}");
                    None
                }
                result => Some(result?),
            },
            Target::Auto => None,
        };
        match engines {
            Some(engines) => Ok(Ready::Cuda(engines)),
            None => Ok(Ready::Cpu(CpuEngine::new(Arc::new(request.plan()?), threads, request.isa())?)),
        }
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        match self {
            Ready::Cpu(engine) => engine.plan().model,
            Ready::Cuda(engines) => engines[0].program().model,
        }
    }

    /// Element type of activations, and how products are computed.
    pub fn precision(&self) -> Precision {
        match self {
            Ready::Cpu(engine) => engine.plan().precision,
            Ready::Cuda(engines) => engines[0].program().precision,
        }
    }

    /// Batch, height and width of the input.
    pub fn input_shape(&self) -> [usize; 3] {
        let (graph, input) = match self {
            Ready::Cpu(engine) => (&engine.plan().graph, engine.plan().input()),
            Ready::Cuda(engines) => (&engines[0].program().graph, engines[0].program().input()),
        };
        let shape = input.map_or(&[][..], |input| &graph.values[input.0].shape);
        [0, 1, 2].map(|axis| shape.get(axis).copied().unwrap_or(0))
    }
}

/// A network ready to run.
pub struct Parser {
    engine: Engine,
    threads: usize,
    isa: Isa,
}

impl Parser {
    /// Takes memory and starts threads for a plan.
    ///
    /// # Errors
    /// As [`CpuEngine::new`].
    pub fn new(plan: Plan, threads: usize, isa: Isa) -> Result<Self, Error> {
        let engine = Engine::Cpu(CpuEngine::new(Arc::new(plan), threads, isa)?);
        Ok(Self { engine, threads, isa })
    }

    /// Compiles or loads what `request` names and makes it ready on `target`; what is left to the CPU has `threads` threads.
    ///
    /// # Errors
    /// Everything that can be wrong with files, names, sizes and devices.
    pub fn open(request: &Request<'_>, target: Target, threads: usize) -> Result<Self, Error> {
        let engine = match Ready::open(request, target, threads)? {
            Ready::Cpu(engine) => Engine::Cpu(engine),
            Ready::Cuda(mut engines) if engines.len() == 1 => Engine::Cuda(engines.remove(0)),
            Ready::Cuda(_) => return Err(EngineError::SeveralDevices.into()),
        };
        Ok(Self::with_engine(engine, threads, request.isa()))
    }

    /// A parser over an engine that is ready; what is left to the CPU has `threads` threads and uses `isa`.
    pub fn with_engine(engine: Engine, threads: usize, isa: Isa) -> Self {
        Self { engine, threads, isa }
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        self.engine.model()
    }

    /// Batch, height and width of the input.
    pub fn input_shape(&self) -> [usize; 3] {
        let shape = self.engine.input_shape();
        [0, 1, 2].map(|axis| shape.get(axis).copied().unwrap_or(0))
    }

    /// Threads for what runs on the CPU.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Instruction set of what runs on the CPU.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

/// Threads to use where the user does not say: what the operating system gives this process.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_one_by_one_or_together() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("auto"), Ok(Target::Auto));
        assert_eq!(target("cpu"), Ok(Target::Cpu));
        assert_eq!(target("cuda"), Ok(Target::Cuda(0)));
        assert_eq!(target("cuda:3"), Ok(Target::Cuda(3)));
        assert_eq!(target("cuda:0,2"), Ok(Target::CudaEach(Devices::Numbered(0b101))));
        assert_eq!(target("cuda:all"), Ok(Target::CudaEach(Devices::All)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:0,", "cuda:64", "cuda:-1", "cpu:0", "cuda:0,all"] {
            assert!(target(text).is_err_and(|message| message.contains("cuda:all")), "{text}");
        }
    }
}
