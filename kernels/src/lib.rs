//! One folder per fused kernel: what it means (`spec.rs`) and how each target computes it (`cpu.rs` or `cpu/`, `forward.cuh`)
//! side by side.
//!
//! All activations are NHWC (channels last), so that a pixel is a row and most of the network is row-tile products.
//! Element type `T` is `f32` or [`half::bf16`]; accumulators, softmax and normalisation statistics are always f32.

pub mod act;
pub mod context;
pub mod cuda;
pub mod dtype;
pub mod epilogue;
pub mod gradient;
pub mod isa;
pub mod peak;
pub mod pool;
pub mod rows;
pub mod simd;

pub mod adamw;
pub mod attention;
pub mod batch_norm;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod gemm;
pub mod image;
pub mod layer_norm;
pub mod loss;
pub mod mask_head;
pub mod mlp;
pub mod mlp_fusion;
pub mod patch_merge;
pub mod resample;
pub mod squeeze_excite;
pub mod stochastic_depth;
pub mod token_attention;
pub mod window_attention;

pub use act::Act;
pub use context::Context;
pub use dtype::{DType, Element};
pub use epilogue::Epilogue;
pub use gradient::Gradient;
pub use half::bf16;
pub use isa::Isa;
pub use pool::Pool;
