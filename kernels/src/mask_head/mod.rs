//! Upscaling, hypernetwork product and argmax: one 256-vector in, sixteen pixels out.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{ArgMaxSpec, MaskHeadOperands, MaskHeadOutput, MaskHeadSpec, MaskProductSpec};
