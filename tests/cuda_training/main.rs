//! Training steps on a CUDA device: gradients of whole networks against libtorch's, and what holds between steps.

mod checked;
#[path = "../training/common.rs"]
mod common;
mod gradients;
#[path = "../training/near.rs"]
mod near;
#[path = "../training/run.rs"]
mod run;
mod steps;
