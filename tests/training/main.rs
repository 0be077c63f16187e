//! Training by our engine, held against libtorch's.

mod common;
mod gradients;
mod steps;
