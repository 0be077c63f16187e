//! What can go wrong between a plan and its results.

use segface_codegen::CodegenError;
use segface_codegen::ir::Output;
use segface_kernels::Isa;
use std::path::PathBuf;

/// Why a plan could not be made, loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The network could not be compiled.
    #[error(transparent)]
    Codegen(#[from] CodegenError),
    /// A CUDA device could not be used.
    #[error(transparent)]
    Cuda(#[from] super::cuda::CudaError),
    /// The same, of several devices.
    #[error("{device}: {error}")]
    OnDevice {
        /// Which one.
        device: String,
        /// What is wrong.
        error: super::cuda::CudaError,
    },
    /// Several devices for what runs on one.
    #[error("this runs on one device; name it, such as `--device cuda:0` (`parse` shares photos over several)")]
    SeveralDevices,
    /// This CPU lacks an instruction set that was asked for.
    #[error("this CPU does not have the instruction set {}; it has {}", wanted.name(), have.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "))]
    WrongCpu {
        /// What was asked for.
        wanted: Isa,
        /// What this CPU has.
        have: Vec<Isa>,
    },
    /// A profile or the tuner could not do what was asked.
    #[error("{reason}")]
    Profile {
        /// Why.
        reason: String,
    },
    /// The plan contradicts itself.
    #[error("this engine does not hold together: {reason}; compile the model again")]
    Broken {
        /// What does not fit.
        reason: String,
    },
    /// The input has another size.
    #[error("the input has {found} numbers, but this engine takes {expected:?} (batch, height, width, channels)")]
    InputLength {
        /// The plan's input shape.
        expected: Vec<usize>,
        /// What was given.
        found: usize,
    },
    /// libtorch refused.
    #[error("libtorch: {reason}")]
    Torch {
        /// What it says.
        reason: String,
    },
    /// Labels that are no classes.
    #[error("{reason}")]
    Labels {
        /// Which, and what was expected.
        reason: String,
    },
    /// The plan does not compute that output.
    #[error("this engine was compiled without the output {output:?}; compile it with that output")]
    NoSuchOutput {
        /// What was asked for.
        output: Output,
    },
    /// The file is not an engine of this program.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What was found and what to do.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
}
