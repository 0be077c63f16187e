//! The training loss and its gradient: half cross-entropy, half dice over the whole batch, in two sweeps over the logits.

pub mod cpu;
mod spec;

pub use spec::{LabelError, Loss, LossOperands, LossSpec};
