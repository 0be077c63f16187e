//! `--engine`: what computes losses and gradients.

use clap::ValueEnum;
use segface::Error;
use segface::engine::EngineError;
use segface::engine::cuda::Device;
use segface::parser::Target;
use segface::train::cuda::CudaTrainer;
use segface::train::ours::OurEngine;
use segface::train::{Engine, EngineChoice, Group, Layout, Recipe, TrainError};
use segface_codegen::grad::{Means, TrainingOptions};
use segface_codegen::plan::Precision;
use segface_kernels::Isa;
use std::path::Path;
use std::str::FromStr;

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// The CPU.
    Cpu,
    /// The CUDA device of that number.
    Cuda(usize),
    /// The CUDA device of the process's number on its machine.
    CudaOfProcess,
}

impl FromStr for On {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse()? {
            Target::Cpu => Ok(On::Cpu),
            Target::Auto => Err("a state is resumed where it is from, so say where: cpu, cuda or cuda:NUMBER".into()),
            Target::Cuda(_) if text == "cuda" => Ok(On::CudaOfProcess),
            Target::Cuda(ordinal) => Ok(On::Cuda(ordinal)),
            Target::CudaEach(_) => Err("a process trains on one device; start one process for each".into()),
        }
    }
}

impl On {
    /// The device; none is the CPU. `local`: the process's number on its machine.
    pub(super) fn open(self, local: usize) -> Result<Option<Device>, EngineError> {
        match self {
            On::Cpu => Ok(None),
            On::Cuda(ordinal) => Ok(Some(Device::open(ordinal)?)),
            On::CudaOfProcess => Ok(Some(Device::open(local)?)),
        }
    }
}

/// `--engine`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum EngineName {
    /// Our kernels
    Ours,
    /// libtorch, which the program must have been built with
    Tch,
    /// Each block of the network by whichever of both is faster here, which a dozen steps find out first
    Mixed,
}

impl EngineName {
    /// What recipes say of it, before anything is measured.
    pub(super) fn choice(self, on_cuda: bool, precision: Precision) -> Result<EngineChoice, TrainError> {
        let possible: &[Precision] = match self {
            _ if on_cuda => &[Precision::F32, Precision::Tf32],
            EngineName::Ours => &[Precision::F32, Precision::Bf16],
            EngineName::Tch | EngineName::Mixed => &[Precision::F32],
        };
        if !possible.contains(&precision) {
            let names: Vec<&str> = possible.iter().map(|precision| precision.name()).collect();
            let hint = if precision == Precision::Tf32 { "; tf32 is CUDA's: give --device cuda" } else { "" };
            let reason = format!(
                "--precision {} is none of this --engine on this --device, which trains in {}{hint}",
                precision.name(),
                names.join(" or ")
            );
            return Err(TrainError::Options(reason));
        }
        match self {
            EngineName::Ours if on_cuda => Ok(EngineChoice::Cuda),
            EngineName::Ours => Ok(EngineChoice::Ours),
            EngineName::Tch | EngineName::Mixed if on_cuda => {
                Err(TrainError::Options("--engine tch and mixed compute on the CPU; give --device cpu".into()))
            }
            EngineName::Tch => Ok(EngineChoice::Tch),
            EngineName::Mixed => Ok(EngineChoice::Mixed(Vec::new())),
        }
    }

    /// Takes memory and starts threads. `cuda`: not on the CPU.
    ///
    /// # Errors
    /// Also if there is a limit of memory where it would not be kept.
    pub(super) fn start(
        self,
        layout: Layout,
        options: &TrainingOptions,
        threads: usize,
        means: Means,
        cuda: Option<&Device>,
    ) -> Result<Started, Error> {
        if means.memory != usize::MAX && (cuda.is_some() || self != EngineName::Ours) {
            let reason = "--memory limits our engine on the CPU; leave it out, or give --engine ours and --device cpu";
            return Err(TrainError::Options(reason.into()).into());
        }
        if let Some(device) = cuda {
            return Ok(Started::Alone(Box::new(CudaTrainer::new(layout, options, device, means.precision)?)));
        }
        match self {
            EngineName::Ours => {
                Ok(Started::Alone(Box::new(OurEngine::with(layout, options, threads, Isa::best(), means)?)))
            }
            #[cfg(feature = "libtorch")]
            EngineName::Tch => {
                Ok(Started::Alone(Box::new(segface::train::torch::TorchEngine::new(layout, options, threads)?)))
            }
            #[cfg(feature = "libtorch")]
            EngineName::Mixed => {
                let engine = segface::train::torch::MixedEngine::new(layout, options, threads, Isa::best())?;
                Ok(Started::Mixed(Box::new(engine)))
            }
            #[cfg(not(feature = "libtorch"))]
            EngineName::Tch | EngineName::Mixed => {
                let reason = "this program was built without libtorch, which --engine tch and mixed need: `cargo xtask torch` in the \
                              project's folder fetches it and builds one with it";
                Err(TrainError::Options(reason.into()).into())
            }
        }
    }
}

/// An engine that was started.
pub(super) enum Started {
    /// One that does all blocks alike.
    Alone(Box<dyn Engine>),
    /// One whose blocks are to be shared out.
    #[cfg(feature = "libtorch")]
    Mixed(Box<segface::train::torch::MixedEngine>),
}

impl Started {
    pub(super) fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Started::Alone(engine) => &mut **engine,
            #[cfg(feature = "libtorch")]
            Started::Mixed(engine) => &mut **engine,
        }
    }

    /// The recipe with what was left open decided, alike in all processes: as in the state in `folder`, if that is given and there is one.
    #[cfg(not(feature = "libtorch"))]
    pub(super) fn decided(&mut self, recipe: &Recipe, _: &mut Group, _: Option<&Path>) -> Result<Recipe, Error> {
        Ok(recipe.clone())
    }

    /// The recipe with what was left open decided, alike in all processes: as in the state in `folder`, if that is given and there is one.
    #[cfg(feature = "libtorch")]
    pub(super) fn decided(
        &mut self,
        recipe: &Recipe,
        group: &mut Group,
        folder: Option<&Path>,
    ) -> Result<Recipe, Error> {
        let Started::Mixed(engine) = self else { return Ok(recipe.clone()) };
        if group.rank() == 0 {
            match folder.and_then(segface::train::recipe_of).map(|recipe| recipe.engine) {
                Some(EngineChoice::Mixed(blocks)) => engine.choose(&blocks)?,
                _ => {
                    let measured = engine.measure()?;
                    tell(&measured, &engine.chosen());
                }
            }
        }
        let (names, chosen) = (engine.blocks(), engine.chosen());
        let mut mask: Vec<f32> = names.iter().map(|name| f32::from(u8::from(chosen.contains(name)))).collect();
        group.broadcast(&mut mask)?;
        let chosen = names.into_iter().zip(mask).filter(|(_, mask)| *mask > 0.0);
        let chosen: Vec<String> = chosen.map(|(name, _)| name).collect();
        engine.choose(&chosen)?;
        Ok(Recipe { engine: EngineChoice::Mixed(chosen), ..recipe.clone() })
    }
}

/// What was measured, and what follows from it.
#[cfg(feature = "libtorch")]
fn tell(measured: &segface::train::torch::Measured, chosen: &[String]) {
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    for block in &measured.blocks {
        let whose = if chosen.contains(&block.name) { "libtorch" } else { "ours" };
        eprintln!("{}: ours {}, libtorch {}: {whose}", block.name, ms(block.ours), ms(block.torch));
    }
    let [ours, torch, mixed] = measured.wholes.map(ms);
    eprintln!("a step: all ours {ours}, all libtorch's {torch}, the faster of both in each block {mixed}");
}
