//! What every test of the suite shares.
//!
//! A kernel's test draws problems with [`problems::random_problems`], makes their numbers with [`operand::Values`] and
//! lets [`problems::judge_kernel`] run them with every instruction set and thread count; whole networks are compared
//! with [`parity::Case`] and with the reference on seeded weights ([`segface::weights::seeded`]). What is accepted is decided in [`judge`] alone.

pub mod assembler;
pub mod cuda;
pub mod epilogue;
pub mod gradients;
pub mod instances;
pub mod judge;
pub mod modes;
pub mod network;
pub mod operand;
pub mod parity;
pub mod problems;
pub mod whole;

use std::path::PathBuf;

/// The project's `fixtures` folder.
pub fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures"].iter().collect()
}
