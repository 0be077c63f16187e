//! What can be wrong with a photo, what comes with it and what is made of it.

use super::Format;
use segface_codegen::Variant;
use std::{io, path::PathBuf};

/// Why a photo could not be used. None of these stops the other photos of a run.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(#[source] io::Error),
    /// A pattern that matches no file.
    #[error("no file matches")]
    NoMatch,
    /// A pattern that is none.
    #[error("not a valid pattern: {0}")]
    Pattern(#[source] glob::PatternError),
    /// A folder without photos.
    #[error("this folder has no .jpg, .jpeg, .png or .webp file (folders inside it are not searched: name them)")]
    EmptyFolder,
    /// A file of no bytes.
    #[error("the file is empty (0 bytes): copy or download it again")]
    Empty,
    /// A file of more bytes than an allowed photo can have.
    #[error(
        "the file has more than {limit} bytes, which no photo of the allowed size needs: raise --max-pixels if it is one"
    )]
    TooManyBytes {
        /// The most that is read.
        limit: u64,
    },
    /// Content that is none of the formats.
    #[error("not a JPEG, PNG or WebP file, whatever its name says: {found}")]
    UnknownFormat {
        /// What the first bytes look like.
        found: String,
    },
    /// Content that breaks off.
    #[error("this {format} file is cut off: copy or download it again")]
    Truncated {
        /// What it began as.
        format: Format,
    },
    /// Content that contradicts its format.
    #[error("this {format} file is damaged, or of a kind that is not supported: {reason}")]
    Damaged {
        /// What it began as.
        format: Format,
        /// The decoder's words.
        reason: String,
    },
    /// More pixels than allowed.
    #[error(
        "{width}x{height} pixels are more than the {limit} allowed: raise --max-pixels if this is a photo you trust"
    )]
    TooManyPixels {
        /// Columns.
        width: u64,
        /// Rows.
        height: u64,
        /// Most pixels allowed.
        limit: u64,
    },
    /// A crop that is not `x,y,width,height`.
    #[error("`{text}` is not a crop: give x,y,width,height in pixels of the upright photo, e.g. 270,8,460,460")]
    BadCrop {
        /// What was given.
        text: String,
    },
    /// A crop that is not inside this photo.
    #[error("the crop {x},{y},{crop_width},{crop_height} is not inside this photo of {width}x{height} pixels")]
    CropOutside {
        /// Left edge.
        x: usize,
        /// Top edge.
        y: usize,
        /// Columns of the crop.
        crop_width: usize,
        /// Rows of the crop.
        crop_height: usize,
        /// Columns of the photo.
        width: usize,
        /// Rows of the photo.
        height: usize,
    },
    /// A landmarks file that could not be understood.
    #[error(
        "landmarks: {reason}. Expected five points (left eye, right eye, nose tip, left and right corner of the mouth; left as seen in the picture) in pixels of the upright photo: JSON [[x, y], ...] or {{\"photo.jpg\": [[x, y], ...]}}, or ten numbers as text"
    )]
    BadLandmarks {
        /// What is wrong with it.
        reason: String,
    },
    /// Landmarks that cannot belong to this photo.
    #[error(
        "landmark {index} ({name}) is ({x}, {y}), far outside of this photo of {width}x{height} pixels; landmarks are in pixels of the upright photo"
    )]
    LandmarkOutside {
        /// Which point, from 0.
        index: usize,
        /// Its name.
        name: &'static str,
        /// Its x.
        x: f32,
        /// Its y.
        y: f32,
        /// Columns of the photo.
        width: usize,
        /// Rows of the photo.
        height: usize,
    },
    /// No landmarks for this photo in a file that has them by name.
    #[error("the landmarks file has no entry `{name}`")]
    NoLandmarks {
        /// The key that was looked for.
        name: String,
    },
    /// One face's landmarks for several photos.
    #[error(
        "the landmarks file has one face, but {photos} photos are to be parsed: give it as {{\"photo.jpg\": [[x, y], ...], ...}}"
    )]
    OneFaceForMany {
        /// How many.
        photos: usize,
    },
    /// A network that warps, and no landmarks.
    #[error(
        "{variant} models look at a face through a warp that needs five points: give them with --landmarks FILE (see `segface parse --help`), or use a celeb or helen model, which need none"
    )]
    LandmarksNeeded {
        /// Its label set.
        variant: Variant,
    },
    /// Something wrong with a file that is no photo.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<ImageError>,
    },
    /// Photos that could not be parsed, each already reported.
    #[error("{failed} of {total} could not be parsed")]
    SomeFailed {
        /// How many failed.
        failed: usize,
        /// Of how many.
        total: usize,
    },
    /// Landmarks that define no warp.
    #[error(transparent)]
    Warp(#[from] segface_kernels::image::WarpError),
    /// A result could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file that was to be.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A photo that was never begun.
    #[error("not done, because an earlier result could not be written")]
    NotDone,
    /// A photo that its device could not label, while others go on.
    #[error("not labelled on {device}: {reason}")]
    Label {
        /// Where it was tried.
        device: String,
        /// What happened and what to do.
        reason: String,
    },
    /// A photo that a device was lost at, with no other device to try, or lost as well.
    #[error(
        "{devices} failed at this photo and cannot be used any more by this run: {reason}. Results written so far are complete; parse the rest again, and if it fails at the same photo, parse that one with `--device cpu` and report it"
    )]
    DeviceLost {
        /// Where it was tried.
        devices: String,
        /// What happened first.
        reason: String,
    },
    /// A photo that was never begun.
    #[error("not done, because no device was left: parse it again")]
    NoDeviceLeft,
    /// A decoder failed in a way it should not.
    #[error("the decoder failed on this file, which is probably damaged")]
    DecoderPanic,
}
