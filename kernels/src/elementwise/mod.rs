//! Elementwise operators on their own: what un-fused plans need. `x` may be the output buffer.

pub mod backward;
mod convert;
pub mod cpu;
mod spec;

pub use convert::{ConvertSpec, convert};
pub use spec::{ElementwiseOp, ElementwiseOperands, ElementwiseSpec};
