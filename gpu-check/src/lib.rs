//! What is checked and measured on a CUDA device, whichever stands behind the driver: the parts of `cargo xtask gpu-check` that
//! need the library.
//!
//! Nothing here links libtorch, so that speeds can be measured on a machine whose PyTorch is none that tch is made for.

pub mod compare;
pub mod kernels;
pub mod ladder;
pub mod machine;
pub mod networks;
pub mod outputs;
pub mod speed;

use serde::Serialize;
use std::error::Error;

/// What keeps a part from being done.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Prints one record as a line of JSON, at once: whoever reads has what was finished, also where this program is stopped.
pub fn emit(record: &impl Serialize) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, record)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
