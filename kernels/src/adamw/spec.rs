//! What the kernel means.

use serde::{Deserialize, Serialize};

/// One step of AdamW (decoupled weight decay), in the order of operations of libtorch's own, each rounded to f32:
///
/// - `g = gradient · gradient_scale`
/// - `p = p · (1 − lr·weight_decay)`
/// - `m = m·β1 + g·(1 − β1)`, `v = v·β2 + g·g·(1 − β2)`
/// - `p = p − lr/(1 − β1^step) · m / (√v/√(1 − β2^step) + ε)`
///
/// Factors that are the same for all parameters are computed in f64 and rounded once, as libtorch does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamWSpec {
    /// Learning rate.
    pub learning_rate: f64,
    /// β1 and β2.
    pub betas: [f64; 2],
    /// ε
    pub eps: f64,
    /// Decay per unit of learning rate.
    pub weight_decay: f64,
    /// Number of this step; the first is 1.
    pub step: u64,
    /// Factor on the gradient: 1, or what clipping says ([`clip_factor`]).
    pub gradient_scale: f32,
}

/// Operands of one call, equally long.
pub struct AdamWOperands<'a> {
    /// Gradients.
    pub gradients: &'a [f32],
    /// Parameters, updated.
    pub parameters: &'a mut [f32],
    /// m, updated.
    pub first_moments: &'a mut [f32],
    /// v, updated.
    pub second_moments: &'a mut [f32],
}

/// Factor on gradients of Euclidean norm `norm` that shortens them to `most`, as libtorch's `clip_grad_norm_`:
/// `min(most/(norm + 1e-6), 1)`. NaN for a norm of NaN.
pub fn clip_factor(norm: f64, most: f64) -> f32 {
    let factor = most / (norm + 1e-6);
    (if factor > 1.0 { 1.0 } else { factor }) as f32
}
