//! Dense convolution as an implicit product: stems, 3×3 of ResNet and EfficientNet, 2×2 stride-2 downsampling.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{ConvOperands, ConvSpec};
