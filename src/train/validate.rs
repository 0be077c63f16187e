//! Scoring the network in training on the validation split.

use super::{Layout, Line, RunOptions, export};
use crate::Error;
use crate::data::Dataset;
use crate::engine::EngineError;
use crate::eval::{Scores, evaluate};
use crate::parser::{Parser, default_precision};
use segface_codegen::ir::Output;
use segface_codegen::plan::{CompileOptions, compile};
use segface_kernels::Isa;
use std::sync::Arc;
use std::time::Instant;

/// Most networks that share out the images.
const MOST_ENGINES: usize = 8;

/// Compiles the network with these parameters as `segface eval` would, and scores it as that does.
pub(super) fn validate(
    dataset: &Arc<Dataset>,
    options: &RunOptions,
    layout: &Layout,
    resolution: usize,
    [parameters, buffers]: [&[f32]; 2],
    [step, epoch]: [u64; 2],
) -> Result<Line, Error> {
    let start = Instant::now();
    let isa = Isa::best();
    let weights = export::weights(layout, resolution, parameters, buffers)?;
    let compiled = CompileOptions {
        batch: options.validate_batch,
        height: resolution,
        width: resolution,
        precision: default_precision(isa),
        outputs: vec![Output::Logits],
        disabled: Vec::new(),
    };
    let plan = compile(&weights.spec, &weights, &compiled).map_err(EngineError::from)?;
    drop(weights);
    let engines = options.threads.min(MOST_ENGINES);
    let mut parser = Parser::new(plan, options.threads.div_ceil(engines), isa)?;
    let evaluation = evaluate(dataset, &mut parser, engines, options.workers, &|_| {})?;
    let scores = Scores::new(&evaluation.confusion, dataset.variant());
    let number = |value: f64| (!value.is_nan()).then_some(value);
    Ok(Line::Validation {
        step,
        epoch,
        mean_f1: number(scores.mean_f1),
        mean_f1_of_present: number(scores.mean_f1_of_present),
        pixel_accuracy: scores.pixel_accuracy,
        mean_iou: scores.mean_iou,
        images: dataset.len(),
        seconds: start.elapsed().as_secs_f64(),
    })
}
