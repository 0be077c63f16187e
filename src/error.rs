//! The crate's error.

use crate::{
    data::DataError, engine::EngineError, image::ImageError, tensors::TensorsError, train::TrainError,
    weights::WeightsError,
};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Weights could not be read, recognised, checked, fetched or written.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A photo, or what comes with it, could not be used, or a result could not be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A folder of labelled faces, or a file of it, could not be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A network could not be compiled, loaded or run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A tensor file could not be used or written.
    #[error(transparent)]
    Tensors(#[from] TensorsError),
    /// A training run could not start, go on or be resumed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A folder that was checked, whose problems are listed already.
    #[error("{count} {} listed above", if *count == 1 { "problem is" } else { "problems are" })]
    Problems {
        /// How many.
        count: usize,
    },
    /// A network and data of other classes.
    #[error(
        "a {network} network ({} classes) cannot be scored on {dataset} ({} classes): give weights trained on {dataset}, or --dataset \
         and --data that suit",
        network.classes().len(),
        dataset.classes().len()
    )]
    OtherClasses {
        /// The network's label set.
        network: crate::Variant,
        /// The data's.
        dataset: crate::Variant,
    },
    /// The operating system refused.
    #[error("cannot {action}")]
    Io {
        /// What was tried, e.g. `write to standard output`.
        action: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Prints an error to standard error as programs end with one: what happened, and each cause below it.
pub fn print_error(error: &dyn std::error::Error) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
}
