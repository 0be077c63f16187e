//! What must not go on: labels without a class, numbers that are none.

use super::{Engine, Entry, TrainError};
use crate::data::{Batch, Dataset};

/// Makes sure that every pixel has a class.
pub(super) fn check_labels(batch: &Batch, dataset: &Dataset, resolution: usize) -> Result<(), TrainError> {
    let classes = dataset.variant().classes().len();
    let Some(place) = batch.labels.iter().position(|&label| usize::from(label) >= classes) else { return Ok(()) };
    let pixels = resolution * resolution;
    let pixel = place % pixels;
    Err(TrainError::Label {
        image: dataset.name(batch.indices[place / pixels]),
        label: batch.labels[place],
        x: pixel % resolution,
        y: pixel / resolution,
        classes,
    })
}

/// What is no number, if anything is: a parameter, then, where the loss is none, the first batch statistics that are none (the forward pass
/// meets them in the order of the layout), else the last gradient (the backward pass goes the other way).
pub(super) fn not_finite(engine: &dyn Engine, loss: f64) -> Option<(String, f32)> {
    let layout = engine.layout();
    let find = |entry: &Entry, values: &[f32], what: &str| {
        let value = values[entry.range.clone()].iter().find(|value| !value.is_finite())?;
        Some((format!("{what} `{}`", entry.name), *value))
    };
    let parameter = |entry| find(entry, engine.parameters(), "the parameter");
    if let Some(found) = layout.parameters().iter().find_map(parameter) {
        return Some(found);
    }
    let statistic = |entry| find(entry, engine.buffers(), "the batch statistic");
    if let Some(found) = layout.buffers().iter().find_map(statistic) {
        return Some(found);
    }
    if !loss.is_finite() {
        return Some(("the loss".into(), loss as f32));
    }
    layout.parameters().iter().rev().find_map(|entry| find(entry, engine.gradients(), "the gradient of"))
}
