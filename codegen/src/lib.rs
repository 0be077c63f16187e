//! The compiler: model → graph → passes → plan. Pure: no files, no device, no clock.

mod spec;

pub use spec::{Backbone, ModelSpec, Variant};
