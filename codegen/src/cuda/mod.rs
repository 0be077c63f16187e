//! The CUDA target: an optimised graph becomes kernel sources, launches, and constants in the form the kernels take.
//!
//! A kernel is a template of `segface_kernels` instantiated with compile-time channel counts and tile shapes; what depends on
//! the image's size is an argument. Nodes that need the same instance share it, also across image sizes. Each launch names its
//! arguments symbolically ([`Argument`]); whoever runs the program turns them into addresses.

pub mod bound;
pub mod card;
mod image;
mod kernel;
mod lower;
mod program;
pub mod tile;
mod training;

pub use image::image_kernels;
pub use kernel::{Argument, Detail, Kernel, Launch};
pub use lower::Rung;
pub use program::{
    Form, PhaseOf, Program, compile, compile_graph, compile_graph_tuned, compile_rung, compile_tuned, kernels,
};
pub use tile::{Choice, Problem, Tile, Tuning};
pub use training::{TrainingProgram, compile_training};
