//! The flagship: a whole Swin attention branch, norm to residual, window by window in the cache.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{
    WindowAttentionOperands, WindowAttentionSpec, WindowCoreOperands, WindowCoreSpec, WindowGatherOperands,
    WindowGatherSpec, WindowKind, WindowPlan, WindowScatterOperands, WindowScatterSpec,
};
