//! Training by our engine, held against libtorch's.

mod common;
mod differences;
mod gradients;
mod kernels;
mod near;
mod run;
mod speed;
mod steps;
