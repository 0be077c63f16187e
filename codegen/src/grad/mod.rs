//! Training: a network's graph with its loss, and the graph of its gradients behind it. One graph, one checker, one memory plan: what the
//! backward pass reads of the forward pass stays alive in the arena until then, because it is read there, or is computed again where memory
//! is short.

mod differentiate;
mod front;
mod fuse;
mod op;
mod recompute;
mod training;

pub use differentiate::differentiate;
pub use front::FlatGradients;
pub use op::BackwardOp;
pub(crate) use op::Operands;
pub use training::{
    FRUGAL_WORK, Means, Training, TrainingOptions, batch_norm_momentum, stochastic_depth_rate, training, training_over,
    training_with,
};
