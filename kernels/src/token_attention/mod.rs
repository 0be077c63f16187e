//! The two-way transformer of the decoder as passes over the image tokens.
//!
//! With P image tokens x_p (256 wide), T class tokens and 8 heads of 16, projections are absorbed: a class token's query in
//! head h becomes one 256-vector that is multiplied with x_p + pe_p directly, so that K·W_k and K·W_v never exist. What is
//! left are passes over the image tokens ([`ImagePassSpec`]) and, between them, tiny steps on the class tokens
//! ([`TokenStepSpec`]):
//!
//! attend₀ → step₀ → update₀ + attend₁ → step₁ → update₁ + attend_final → final step → mask head

pub mod cpu;
mod spec;

pub use spec::{
    CrossAttentionWeights, ImagePassOperands, ImagePassSpec, LinearWeights, NormWeights, ProjectionWeights, TokenStage,
    TokenStepOperands, TokenStepSpec,
};
