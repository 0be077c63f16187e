//! A reading of the PTX manual in plain Rust: slow, scalar, and written to be obviously right.
//!
//! The virtual machine's tests run the same PTX here and there and compare. Nothing is shared with the virtual machine
//! but the parser: arithmetic is done on exact numbers of any size and rounded once, as the manual words it.

mod atomic;
mod bits;
mod compare;
mod convert;
mod error;
mod exact;
mod execute;
mod floating;
mod format;
mod integer;
mod machine;
mod matrix;
mod matrix_memory;
mod memory;
mod modifiers;
mod operand;
mod program;
mod warp;
mod wmma;

#[cfg(test)]
mod tests;

pub use error::OracleError;
pub use machine::run;
