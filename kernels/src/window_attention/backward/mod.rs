//! Gradients of the attention branch's parts, on the CPU: the plan of a training step has the branch un-fused.

mod core;
mod moves;

pub use core::{WindowCoreBackwardOperands, window_core_backward};
pub use moves::{window_gather_backward, window_scatter_backward};
