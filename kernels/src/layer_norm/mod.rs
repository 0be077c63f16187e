//! Layer norm over the last axis, on its own: where no product follows it (ConvNeXt's stem, un-fused plans).

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{LayerNormOperands, LayerNormSpec};
