//! Batch norm in training mode, with the activation behind it: statistics of the batch, running statistics, gradients.
//! At inference batch norms are folded into convolutions, or are an elementwise operator.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{BatchNormOperands, BatchNormSpec};
