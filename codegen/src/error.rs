//! What the compiler can refuse.

use crate::ModelSpec;
use crate::plan::Precision;
use std::fmt::Write;

/// Why a network was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// The network cannot take images of that size.
    #[error("{model} cannot take {batch} image(s) of {height}x{width} pixels: {reason}")]
    Size {
        /// Which network.
        model: ModelSpec,
        /// Images in one run.
        batch: usize,
        /// Height asked for.
        height: usize,
        /// Width asked for.
        width: usize,
        /// What is wrong with it and what would do.
        reason: String,
    },
    /// The CPU target has no kernels for that precision.
    #[error("the CPU computes in f32 or bf16, not in {}; choose one of those, or a CUDA device", precision.name())]
    CpuPrecision {
        /// What was asked for.
        precision: Precision,
    },
    /// Something of the network cannot be trained.
    #[error("{model} cannot be trained: {reason}")]
    Training {
        /// Which network.
        model: ModelSpec,
        /// What stands in the way.
        reason: String,
    },
    /// The weights are not those of the network.
    #[error("the weights do not fit the network:{}", list(missing, misshapen))]
    Weights {
        /// Names of tensors that are not there.
        missing: Vec<String>,
        /// Name, expected shape and found shape of tensors that are.
        misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
}

fn list(missing: &[String], misshapen: &[(String, Vec<usize>, Vec<usize>)]) -> String {
    let mut text = String::new();
    for name in missing {
        let _ = write!(text, "\n  {name} is missing");
    }
    for (name, expected, found) in misshapen {
        let _ = write!(text, "\n  {name} has shape {found:?}, expected {expected:?}");
    }
    text
}
