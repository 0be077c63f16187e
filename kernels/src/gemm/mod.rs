//! C = epilogue(prologue(A) · Bᵀ): every linear layer and 1×1 convolution, and the tile product that all other kernels
//! are built on.

pub mod core;
pub mod cpu;
mod spec;

pub use core::PackedMatrix;
pub use spec::{GemmOperands, GemmSpec, Prologue, PrologueOperands};
