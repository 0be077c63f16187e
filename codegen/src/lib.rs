//! The compiler: model → graph → passes → plan. Pure: no files, no device, no clock.

mod builder;
pub mod check;
mod cost;
pub mod cuda;
mod error;
pub mod explain;
pub mod grad;
pub mod ir;
mod manifest;
pub mod models;
pub mod passes;
pub mod plan;
mod signature;
mod single;
mod spec;
pub mod weights;

pub use error::CodegenError;
pub use manifest::{TensorDecl, WeightSource, manifest};
pub use spec::{Backbone, ModelSpec, Variant};
