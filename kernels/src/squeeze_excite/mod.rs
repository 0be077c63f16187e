//! The gate of squeeze-excite blocks: two tiny products per image.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{SqueezeExciteOperands, SqueezeExciteSpec};
