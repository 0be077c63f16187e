//! SegFace face parsing as a compiler.
pub use segface_codegen::{Backbone, ModelSpec, Variant};
