//! `segface convert`: a training checkpoint becomes a safetensors file.

use clap::ValueEnum;
use segface::{
    Error, Variant,
    weights::{DType, Hints, SaveAs, Weights},
};
use std::path::PathBuf;

/// Convert a checkpoint (a .pt of SegFace's training, or safetensors) to a checked safetensors file
///
/// Reads .pt files without Python and without running what is in them. Optimizer and scheduler state is left behind.
#[derive(clap::Args)]
pub(crate) struct ConvertArgs {
    /// The checkpoint: .pt, .pth or safetensors, told by content
    input: PathBuf,
    /// The safetensors file to write
    output: PathBuf,
    /// Which data set the network is for, where the checkpoint does not tell: celeb, lapa or helen
    #[arg(long)]
    variant: Option<Variant>,
    /// Side of the square input the network was trained with, in pixels; written into the metadata
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size: Option<u32>,
    /// Store weights in this type [default: as they are]; batch-norm statistics keep float32
    #[arg(long, value_enum)]
    dtype: Option<StoredType>,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum StoredType {
    F32,
    F16,
    Bf16,
}

pub(crate) fn run(args: ConvertArgs) -> Result<(), Error> {
    let asked = Hints { variant: args.variant, resolution: args.size.map(|side| side as usize) };
    let dtype = args.dtype.map(|dtype| match dtype {
        StoredType::F32 => DType::F32,
        StoredType::F16 => DType::F16,
        StoredType::Bf16 => DType::BF16,
    });
    let weights = Weights::load_with(&args.input, asked)?;
    weights.save(&args.output, SaveAs { dtype, force: args.force })?;
    let trained_at = weights.resolution.map(|side| format!(", trained at {side}x{side}")).unwrap_or_default();
    eprintln!(
        "{}: {}{trained_at}, {} tensors, {:.2} M parameters",
        args.output.display(),
        weights.spec,
        weights.tensors().len(),
        weights.parameters() as f64 / 1e6
    );
    Ok(())
}
