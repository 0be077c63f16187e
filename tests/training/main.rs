//! Training by our engine, held against libtorch's.

mod common;
mod gradients;
mod kernels;
mod speed;
mod steps;
