//! Arguments that every command which runs a network takes: which one, compiled how, run where.

use clap::ValueEnum;
use segface::parser::{Parser, Ready, Request, Target, default_threads};
use segface::{Error, Variant};
use segface_codegen::passes::Pass;
use segface_codegen::plan::Precision;
use segface_kernels::Isa;
use std::path::PathBuf;
use std::str::FromStr;

/// Which network, compiled how, run where.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Network")]
pub(crate) struct ModelArgs {
    /// Weights: a safetensors file, a .pt of SegFace's training, or an engine file [default: the built-in demo]
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// A published model by name, downloaded once (see `segface download --help`), `demo`, or
    /// `random:<backbone>/<variant>` for benches
    #[arg(long, value_name = "NAME", conflicts_with = "weights")]
    pub(crate) model: Option<String>,
    /// Which data set the network is for, where the file does not tell: celeb, lapa or helen
    #[arg(long)]
    pub(crate) variant: Option<Variant>,
    /// Size of the network's input, `512` or `HEIGHTxWIDTH` [default: what the weights were trained with, else 512]
    #[arg(long, value_name = "PIXELS")]
    pub(crate) size: Option<Size>,
    /// Element type of activations and weights [default: auto, the faster one]
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) precision: PrecisionArg,
    /// Where to run: auto (a CUDA device if there is one), cpu, cuda, cuda:NUMBER, or for `parse` several that share the photos:
    /// cuda:0,1 or cuda:all
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = Target::from_str)]
    pub(crate) device: Target,
    /// Threads [default: one per processor of this process]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Instruction set: portable, neon, avx2, avx512, avx512-bf16, amx [default: the best this CPU has]
    #[arg(long, value_parser = parse_isa)]
    pub(crate) isa: Option<Isa>,
    /// Leave a compiler pass out, e.g. fuse_mlp (repeatable); results stay within numerics
    #[arg(long = "without", value_name = "PASS", value_parser = Pass::from_str)]
    pub(crate) without: Vec<Pass>,
}

/// `--precision`
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    Auto,
    F32,
    Bf16,
    /// f32 whose products round their factors to tf32; CUDA only
    Tf32,
    /// IEEE half precision; CUDA only
    F16,
}

/// `--size`: height and width.
#[derive(Clone, Copy)]
pub(crate) struct Size(pub(crate) [usize; 2]);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |part: &str| -> Result<usize, String> {
            part.parse().ok().filter(|side| (1..=16_384).contains(side)).ok_or_else(|| {
                format!("`{text}` is no size; expected a side like 512 or HEIGHTxWIDTH like 384x512, up to 16384")
            })
        };
        match text.split_once('x') {
            Some((height, width)) => Ok(Size([side(height)?, side(width)?])),
            None => Ok(Size([side(text)?; 2])),
        }
    }
}

fn parse_isa(name: &str) -> Result<Isa, String> {
    Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
        let known: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
        format!("unknown instruction set `{name}`; known are {}", known.join(", "))
    })
}

impl ModelArgs {
    /// What the library is asked for.
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            weights: self.weights.as_deref(),
            model: self.model.as_deref(),
            variant: self.variant,
            size: self.size.map(|size| size.0),
            batch: None,
            precision: match self.precision {
                PrecisionArg::Auto => None,
                PrecisionArg::F32 => Some(Precision::F32),
                PrecisionArg::Bf16 => Some(Precision::Bf16),
                PrecisionArg::Tf32 => Some(Precision::Tf32),
                PrecisionArg::F16 => Some(Precision::F16),
            },
            isa: self.isa,
            disabled: self.without.clone(),
            outputs: Vec::new(),
        }
    }

    /// Number of threads.
    pub(crate) fn threads(&self) -> usize {
        self.threads.map_or_else(default_threads, usize::from)
    }

    /// Loads or compiles the network and gives it memory and threads.
    pub(crate) fn parser(&self, request: &Request<'_>) -> Result<Parser, Error> {
        Parser::open(request, self.device, self.threads())
    }

    /// The same for what runs on several devices.
    pub(crate) fn ready(&self, request: &Request<'_>) -> Result<Ready, Error> {
        Ready::open(request, self.device, self.threads())
    }
}
