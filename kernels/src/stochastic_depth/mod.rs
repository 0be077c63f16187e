//! Stochastic depth (Huang et al., "Deep networks with stochastic depth", 2016), torchvision's mode "row": a residual branch is
//! dropped for whole images, and scaled up for the others. Its own adjoint.

pub mod cpu;
mod spec;

pub use spec::{Draw, StochasticDepthSpec, philox};
