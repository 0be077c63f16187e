//! What every test of the suite shares.

pub mod judge;
pub mod parity;
pub mod seeded;

use std::path::PathBuf;

/// The project's `fixtures` folder.
pub fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fixtures"].iter().collect()
}
