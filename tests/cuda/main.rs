//! Every kernel of the CUDA target against libtorch: random problems in f32, tf32, f16 and bf16.

mod budgets;
mod checked;
mod conv;
mod depthwise;
mod elementwise;
mod gemm;
mod layer_norm;
mod mlp;
mod models;
mod patch_merge;
mod photo;
mod resample;
mod sizes;
mod squeeze_excite;
mod window_attention;
