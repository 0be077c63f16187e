//! Every kernel of the CUDA target against libtorch: random problems in f32, tf32, f16 and bf16.

mod conv;
mod depthwise;
mod elementwise;
mod gemm;
mod models;
mod resample;
mod squeeze_excite;
