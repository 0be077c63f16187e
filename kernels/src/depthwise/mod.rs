//! Depthwise convolution 3×3, 5×5 and 7×7 with bias, activation and, for squeeze-excite, the channel sums of its output.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{DepthwiseOperands, DepthwiseSpec};
