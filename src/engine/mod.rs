//! Running compiled networks: the CPU target and engine files.

mod call;
mod cpu;
mod error;
pub mod file;
mod validate;

pub use cpu::CpuEngine;
pub use error::EngineError;
