//! Multi-head attention, un-fused: softmax(q·kᵀ·scale)·v. For plans without the token-attention pass.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{AttentionOperands, AttentionSpec};
