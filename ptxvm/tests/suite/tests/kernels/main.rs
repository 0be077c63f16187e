//! The corpus: kernels of textbook kinds, each against plain Rust, in several sizes.

mod algorithms;
mod async_copy;
mod atomics;
mod attention;
mod calls;
mod conversions;
mod cooperative;
mod elementwise;
mod gemm;
mod gemm_tensor;
mod host;
mod norm;
mod reduce;
mod scan;
mod seeds;
mod sort;
mod stencil;
mod transpose;
mod warp;
