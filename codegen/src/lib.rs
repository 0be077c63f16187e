//! The compiler: model → graph → passes → plan. Pure: no files, no device, no clock.

pub mod ir;
mod manifest;
mod spec;
pub mod weights;

pub use manifest::{TensorDecl, WeightSource, manifest};
pub use spec::{Backbone, ModelSpec, Variant};

mod models {
    //! One short file per backbone and one for the decoder.
    pub(crate) fn manifest(_spec: &crate::ModelSpec) -> Vec<crate::TensorDecl> {
        Vec::new()
    }
}
