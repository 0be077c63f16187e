//! Running compiled networks: on the CPU, on CUDA devices, and from engine files.

mod call;
mod cpu;
pub mod cuda;
mod error;
pub mod file;
mod validate;

pub use cpu::CpuEngine;
pub use error::EngineError;
