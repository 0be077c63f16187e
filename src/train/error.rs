//! What can go wrong in training.

use std::path::PathBuf;

/// Why a run could not start, go on or be resumed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Options that do not go together, or a setting of the environment that cannot be used.
    #[error("{0}")]
    Options(String),
    /// A loss, gradient or statistic that is no number. Nothing was written since the last checkpoint.
    #[error(
        "{what} is {value} at step {step} of the optimizer (images {images}): training has diverged; the last good state is kept, try a \
         lower --lr, --clip or a longer --warmup"
    )]
    NotFinite {
        /// `the loss`, or which tensor's gradient or value.
        what: String,
        /// NaN or infinite.
        value: f32,
        /// Which step.
        step: u64,
        /// Names of the images of the step on this process.
        images: String,
    },
    /// A label that the loss has no class for.
    #[error(
        "{image}: label {label} at pixel ({x}, {y}) is none of the {classes} classes; training needs a class for every pixel"
    )]
    Label {
        /// Which image.
        image: String,
        /// What was found.
        label: u8,
        /// Column at the network's size.
        x: usize,
        /// Row.
        y: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A split with fewer images than one step takes.
    #[error("{}: the train split has {found} images, but one step takes {needed} ({replicas} replicas of {batch}); use a smaller --train_bs or fewer of --accumulate", folder.display())]
    TooFew {
        /// The data set's folder.
        folder: PathBuf,
        /// Images.
        found: usize,
        /// Images in a step.
        needed: usize,
        /// Micro-batches in a step, over all processes.
        replicas: usize,
        /// Images in each.
        batch: usize,
    },
    /// A state that cannot be resumed from.
    #[error("{}: {reason}", file.display())]
    State {
        /// Which file.
        file: PathBuf,
        /// What was found, what was expected.
        reason: String,
    },
    /// A state that was to be resumed from, and is not there.
    #[error("{}: there is no state of a run to resume; leave --resume out to start one", folder.display())]
    NothingToResume {
        /// The run's folder.
        folder: PathBuf,
    },
    /// A folder with the state of another run, which is not overwritten.
    #[error("{} holds the state of a run: give --resume to go on with it, or another --expt_name", folder.display())]
    Exists {
        /// The run's folder.
        folder: PathBuf,
    },
    /// Weights to start from that do not fit.
    #[error("{file} cannot be started from: {reason}")]
    Start {
        /// Which file.
        file: String,
        /// What was found, what was expected.
        reason: String,
    },
    /// The other processes of the run.
    #[error("process {rank} of {size}: {reason}")]
    Group {
        /// This process.
        rank: usize,
        /// How many there are.
        size: usize,
        /// What happened.
        reason: String,
    },
    /// A file of the run could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A picture of the curves could not be drawn.
    #[error("cannot draw the curves: {0}")]
    Curves(String),
}
