//! Photos in, label maps out: everything about a photo but the network.
//!
//! | step | here |
//! |---|---|
//! | which files | [`expand_inputs`], [`OutputNames`] |
//! | decode, turn upright | [`decode_file`], [`Photo`] |
//! | the part to look at, the face's points | [`Crop`], [`Landmarks`] |
//! | the network's input, and labels from its logits | [`Frame`] |
//! | the network and what lies around it, on the CPU or a device | [`Labeller`] |
//! | many photos | [`parse_photos`] |
//! | colours, label PNG, overlay, JSON | [`palette`], [`encode_labels`], [`overlay`], [`encode_overlay`], [`PhotoSummary`] |

mod crop;
mod decode;
mod encode;
mod error;
mod frame;
mod inputs;
mod labeller;
mod landmarks;
mod orient;
mod output;
mod palette;
mod pipeline;
mod queue;
mod summary;

#[cfg(test)]
mod tests;

pub use crop::Crop;
pub use decode::{DEFAULT_MAX_PIXELS, Format, Photo, decode, decode_file};
pub use encode::{encode_labels, encode_overlay, overlay};
pub use error::ImageError;
pub use frame::{Frame, LabelMap};
pub use inputs::{IMAGE_EXTENSIONS, Inputs, expand_inputs};
pub(crate) use labeller::hundredths;
pub use labeller::{AroundNetwork, LabelError, Labeller, Labels, Take};
pub use landmarks::{FacePoints, Landmarks};
pub use output::{OutputNames, prepare_output_folder, write_output};
pub use palette::{class_color, palette};
pub use pipeline::{Loss, Outcome, ParseOptions, Run, parse_photos};
pub use summary::{ClassSummary, ModelSummary, PhotoSummary, Timings};
