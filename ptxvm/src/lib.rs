//! A PTX virtual machine: it runs, checks and counts CUDA kernels on a CPU.
//!
//! ```text
//! PTX text ── ptx ──► syntax tree ── program ──► operations ── machine ──► effects in memory
//! ```

#![cfg_attr(not(feature = "driver"), allow(unreachable_pub, dead_code))]

pub mod card;
pub mod driver;
pub mod machine;
pub mod memory;
pub mod monitor;
mod ops;
pub mod program;
pub mod ptx;
pub mod report;
pub mod settings;
