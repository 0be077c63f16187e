//! The optimizer: one step over flat buffers, and the norm of the gradient that clipping needs.

pub mod cpu;
mod spec;

pub use spec::{AdamWOperands, AdamWSpec, clip_factor};
