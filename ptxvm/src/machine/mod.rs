//! The machine: warps, blocks and grids, and what runs them.

pub(crate) mod block;
pub(crate) mod fault;
pub(crate) mod lanes;
pub(crate) mod launch;
mod module;
pub(crate) mod op;
pub(crate) mod splits;
mod standstill;
mod start;
#[cfg(test)]
mod tests;
pub(crate) mod warp;
mod workers;

pub(crate) use workers::run_watched;

pub use fault::{Fault, FaultKind, Place};
pub use launch::{Launch, Options, Order, run};
pub use module::{KernelId, LoadError, LoadedModule};
pub use op::{Tier, tier};
