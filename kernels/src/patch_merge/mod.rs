//! Swin's downsampling: gather 2×2 neighbours, norm and product in one pass.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{MergeNorm, PatchGatherOperands, PatchGatherSpec, PatchMergeOperands, PatchMergeSpec};
