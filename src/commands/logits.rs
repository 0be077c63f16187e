//! `segface logits`: tensors in, tensors out; for comparing with other implementations.

use super::model::ModelArgs;
use segface::tensors;
use segface::{Error, parser::Request};
use segface_codegen::ir::Output;
use std::path::PathBuf;

/// Run the network on a tensor file and write what it computes
///
/// The input is a safetensors file with `input` [N, 3, H, W], normalised, and, for LaPa, `landmarks` [N, 5, 2] in pixels of
/// the input. The output has `logits` [N, T, h, w], four times the size of the first tap (H x W for multiples of 4).
#[derive(clap::Args)]
pub(crate) struct LogitsArgs {
    /// Safetensors file with `input`, and `landmarks` for LaPa
    input: PathBuf,
    /// Safetensors file to write
    #[arg(long, short)]
    output: PathBuf,
    /// Also write the taps `stage0`..`stage3` [N, C, h, w], `fused` [N, 256, h, w] and `tokens` [N, T, 256]
    #[arg(long)]
    taps: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: LogitsArgs) -> Result<(), Error> {
    let batch = tensors::read_batch(&args.input)?;
    let [count, height, width] = batch.shape;
    let mut outputs = vec![Output::Logits];
    if args.taps {
        outputs.extend([0, 1, 2, 3].map(Output::Stage));
        outputs.extend([Output::Fused, Output::Tokens]);
    }
    let request =
        Request { size: Some([height, width]), batch: Some(count), outputs: outputs.clone(), ..args.model.request() };
    let mut parser = args.model.parser(&request)?;
    let results = tensors::run(&mut parser, &batch, &outputs)?;
    Ok(tensors::write_tensors(&args.output, &results)?)
}
