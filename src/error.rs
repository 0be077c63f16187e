//! The crate's error.

use crate::{engine::EngineError, image::ImageError, tensors::TensorsError, weights::WeightsError};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Weights could not be read, recognised, checked, fetched or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A photo, or what comes with it, could not be used, or a result could not be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A network could not be compiled, loaded or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A tensor file could not be used or written.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was tried, e.g. `write to standard output`.
        action: String,
        /// The system's reason.
        source: std::io::Error,
    },
}
