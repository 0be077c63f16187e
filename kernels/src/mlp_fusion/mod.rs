//! SegFace's MLP fusion, folded: four products at native resolution, upsampled and summed.

pub mod cpu;
mod spec;

pub use spec::{MlpFusionOperands, MlpFusionSpec};
