//! A transformer's (or ConvNeXt block's) two linear layers in one pass: the hidden rows never leave the cache.

pub mod cpu;
mod spec;

pub use spec::{MlpOperands, MlpSpec};
