//! What can be wrong with weights.

use super::{Problems, torch::PickleError};
use segface_codegen::Variant;
use std::path::PathBuf;

/// Why a checkpoint could not be read, recognised, checked, fetched or written. `file` is the path as it was given, or what
/// stands for one (the weights inside the program).
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {file}")]
    Io {
        /// What was tried: `open`, `map`, `write`...
        action: &'static str,
        /// Which file.
        file: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Neither a safetensors file nor a `torch.save` file.
    #[error(
        "{file} is not a checkpoint: {found}; expected a safetensors file or a .pt file written by torch.save (PyTorch 1.6 or later)"
    )]
    NotACheckpoint {
        /// Which file.
        file: String,
        /// What its bytes look like.
        found: String,
    },
    /// A safetensors file that breaks its own format: overlapping or out-of-file tensors, a bad header.
    #[error("{file} is not a sound safetensors file: {reason}")]
    Safetensors {
        /// Which file.
        file: String,
        /// What is wrong in it.
        reason: String,
    },
    /// A `torch.save` file whose container or tensors are damaged.
    #[error("{file} is not a sound torch.save file: {reason}")]
    Torch {
        /// Which file.
        file: String,
        /// What is wrong in it.
        reason: String,
    },
    /// A `torch.save` file whose pickle is damaged or asks for something a checkpoint does not need.
    #[error("{file} was not read")]
    Pickle {
        /// Which file.
        file: String,
        /// What the pickle did.
        source: PickleError,
    },
    /// The tensors belong to no network of the family.
    #[error("{file} is not a SegFace checkpoint: {reason}")]
    NotRecognised {
        /// Which file.
        file: String,
        /// Which tensors spoke against it.
        reason: String,
    },
    /// LaPa and Helen networks have the same tensors, and nothing else told them apart.
    #[error(
        "{file} holds an 11-class network, which is either lapa or helen, and neither its metadata nor its name says which: \
         give --variant lapa or --variant helen"
    )]
    VariantUnknown {
        /// Which file.
        file: String,
    },
    /// The variant that was asked for does not fit the tensors.
    #[error(
        "{file} has the class tokens of {found}, so it cannot be the variant {wanted} that {said_by} says: \
         leave --variant out or give the right one"
    )]
    VariantMismatch {
        /// Which file.
        file: String,
        /// What the tensors are: `celeb`, or `lapa or helen`.
        found: &'static str,
        /// What was asked for.
        wanted: Variant,
        /// Who asked: the command line or the file's metadata.
        said_by: &'static str,
    },
    /// Metadata that is there but cannot be right.
    #[error("{file} says in its metadata that `{key}` is `{value}`: {reason}; give the right one on the command line")]
    Metadata {
        /// Which file.
        file: String,
        /// The metadata's key.
        key: String,
        /// What it says.
        value: String,
        /// Why that cannot be.
        reason: String,
    },
    /// Tensors that are missing, unknown, of another shape or type, or not finite. All of them are named.
    #[error("{file} was recognised as {spec}, but its tensors do not fit:\n{problems}")]
    Problems {
        /// Which file.
        file: String,
        /// Which network it was compared with.
        spec: segface_codegen::ModelSpec,
        /// What does not fit.
        problems: Box<Problems>,
    },
    /// Values that the wanted element type cannot hold.
    #[error("{count} values of `{tensor}` are too large for {dtype}: write the checkpoint as f32 or bf16")]
    Overflow {
        /// First tensor that overflows.
        tensor: String,
        /// The element type that was asked for.
        dtype: super::DType,
        /// How many of its values overflow.
        count: usize,
    },
    /// An output file is in the way.
    #[error("{file} exists already: give --force to replace it")]
    Exists {
        /// Which file.
        file: String,
    },
    /// Both a file and a model name were given.
    #[error("both --weights {weights} and --model {model} were given: give one of them")]
    TwoSources {
        /// The file.
        weights: PathBuf,
        /// The name.
        model: String,
    },
    /// A model name that stands for nothing.
    #[error("there is no published model `{name}`; known are: {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What could have been.
        known: String,
    },
    /// A published checkpoint could not be fetched.
    #[error(
        "cannot download {name}: {reason}\n\
         Without a network, fetch {url} on another machine and give the file as --weights, or copy that machine's \
         Hugging Face cache to {cache}. The built-in demonstration weights need no download (leave --model out)."
    )]
    Download {
        /// Which model.
        name: &'static str,
        /// What went wrong.
        reason: String,
        /// Where the file is.
        url: String,
        /// Where it would have been kept.
        cache: String,
    },
    /// A downloaded file is not what the hub says it is.
    #[error("{file} is damaged: its SHA-256 is {found}, the hub's is {expected}. It was removed; download it again")]
    Checksum {
        /// Which file.
        file: String,
        /// The hub's checksum.
        expected: String,
        /// The file's.
        found: String,
    },
    /// There is no home directory to keep downloads in.
    #[error("there is no home directory to keep downloads in: set HF_HOME to a folder")]
    NoCache,
}
