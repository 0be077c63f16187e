//! SegFace face parsing as a compiler.

pub mod data;
pub mod drawing;
pub mod engine;
mod error;
pub mod eval;
pub mod files;
pub mod image;
pub mod labellers;
pub mod parser;
pub mod profile;
pub mod tensors;
pub mod train;
pub mod weights;

pub use error::{Error, print_error};
pub use segface_codegen::{Backbone, ModelSpec, Variant};
