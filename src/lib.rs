//! SegFace face parsing as a compiler.

mod error;
pub mod files;
pub mod image;
pub mod weights;

pub use error::Error;
pub use segface_codegen::{Backbone, ModelSpec, Variant};
