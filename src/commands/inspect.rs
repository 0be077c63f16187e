//! `segface inspect`: what a checkpoint holds and what it was recognised as.

use segface::{
    Error, Variant,
    weights::{Checkpoint, Hints, WeightsError},
};
use serde_json::json;
use std::{
    io::{self, Write},
    path::PathBuf,
};

/// List the tensors of a checkpoint, the network they were recognised as, and what does not fit
///
/// Exit status 1 if the checkpoint is no complete SegFace network.
#[derive(clap::Args)]
pub(crate) struct InspectArgs {
    /// The checkpoint: .pt, .pth or safetensors, told by content
    file: PathBuf,
    /// Which data set the network is for, where the checkpoint does not tell: celeb, lapa or helen
    #[arg(long)]
    variant: Option<Variant>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: InspectArgs) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(&args.file)?;
    let recognised = checkpoint.recognise(Hints { variant: args.variant, resolution: None });
    super::print(|out| {
        if args.json { write_json(out, &checkpoint, &recognised) } else { write_table(out, &checkpoint, &recognised) }
    })?;
    let (spec, _) = recognised?;
    let problems = checkpoint.problems(&spec);
    if problems.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Problems { file: checkpoint.file, spec, problems: Box::new(problems) }.into())
}

type Recognised = Result<(segface::ModelSpec, Option<usize>), WeightsError>;

fn write_table(out: &mut dyn Write, checkpoint: &Checkpoint, recognised: &Recognised) -> io::Result<()> {
    let width = checkpoint.tensors.keys().map(String::len).max().unwrap_or(0);
    let mut values = 0;
    for (name, tensor) in &checkpoint.tensors {
        let shape: Vec<_> = tensor.shape().iter().map(ToString::to_string).collect();
        writeln!(out, "{name:<width$}  {:<8}  {}", tensor.dtype(), shape.join(" x "))?;
        values += tensor.len();
    }
    writeln!(out, "{} tensors, {:.2} M values", checkpoint.tensors.len(), values as f64 / 1e6)?;
    for (key, value) in &checkpoint.metadata {
        writeln!(out, "{key}: {value}")?;
    }
    if let Ok((spec, resolution)) = recognised {
        let trained_at = resolution.map(|side| format!(", trained at {side} x {side} pixels")).unwrap_or_default();
        writeln!(out, "recognised as {spec}, {} classes{trained_at}", spec.variant.classes().len())?;
    }
    Ok(())
}

fn write_json(out: &mut dyn Write, checkpoint: &Checkpoint, recognised: &Recognised) -> io::Result<()> {
    let tensors: serde_json::Map<_, _> = checkpoint
        .tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), json!({ "dtype": tensor.dtype().to_string(), "shape": tensor.shape() })))
        .collect();
    let recognised = match recognised {
        Ok((spec, resolution)) => json!({
            "backbone": spec.backbone.name(),
            "variant": spec.variant.name(),
            "classes": spec.variant.classes(),
            "resolution": resolution,
            "problems": checkpoint.problems(spec),
        }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let report = json!({
        "file": checkpoint.file,
        "container": checkpoint.container,
        "metadata": checkpoint.metadata,
        "recognised": recognised,
        "tensors": tensors,
    });
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}
