//! What can be wrong with a folder of labelled faces.

use super::Split;
use crate::image::ImageError;
use segface_codegen::Variant;
use std::{io, path::PathBuf};

/// What is wrong with a folder of labelled faces. Every message begins with the file.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A folder or file of the published layout is not there.
    #[error(
        "{}: not found, or not a {what}. The {dataset} folder must hold {}", path.display(), super::dataset::layout(*dataset)
    )]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// `file` or `folder`.
        what: &'static str,
        /// The layout.
        dataset: Variant,
    },
    /// A folder whose layout is none of the three.
    #[error(
        "{}: neither CelebAMask-HQ (CelebAMask-HQ-mask-anno), LaPa (train/images) nor Helen (landmarks.txt) is in it: \
         give the data set's own folder, and --dataset if it is incomplete", path.display()
    )]
    Unrecognised {
        /// The folder.
        path: PathBuf,
    },
    /// A split without images.
    #[error("{}: the {split} split of {dataset} has no image: {reason}", path.display())]
    EmptySplit {
        /// The list or folder it should come from.
        path: PathBuf,
        /// Which split.
        split: Split,
        /// The layout.
        dataset: Variant,
        /// Where its images should have been named.
        reason: String,
    },
    /// A line of a list that cannot be understood.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The list.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What was found and what was expected.
        reason: String,
    },
    /// A photo that cannot be used.
    #[error("{}: {reason}", path.display())]
    Photo {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: ImageError,
    },
    /// Another file that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The operating system refused.
    #[error("{}: cannot be read: {reason}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: io::Error,
    },
}
