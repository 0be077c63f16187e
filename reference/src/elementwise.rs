//! Operators on single elements: activations, batch normalisation with stored statistics.

use segface_kernels::Act;
use tch::Tensor;

/// Applies `act` to each element of `x`, any shape. GELU is the exact erf form.
pub fn activate(act: Act, x: &Tensor) -> Tensor {
    match act {
        Act::Identity => x.shallow_clone(),
        Act::Relu => x.relu(),
        Act::Gelu => x.gelu("none"),
        Act::Silu => x.silu(),
        Act::HardSwish => x.hardswish(),
        Act::HardSigmoid => x.hardsigmoid(),
        Act::Sigmoid => x.sigmoid(),
    }
}

/// Statistics and affine map of a batch normalisation, each `[C]`.
#[derive(Debug)]
pub struct BatchNorm {
    /// γ
    pub weight: Tensor,
    /// β
    pub bias: Tensor,
    /// μ of the training set.
    pub running_mean: Tensor,
    /// σ² of the training set.
    pub running_var: Tensor,
}

/// Batch normalisation in training: statistics of the batch (biased variance), which move the running ones (unbiased).
pub fn batch_norm_in_training(x: &Tensor, p: &BatchNorm, momentum: f64, eps: f64) -> Tensor {
    let (mean, var) = (Some(&p.running_mean), Some(&p.running_var));
    x.batch_norm(Some(&p.weight), Some(&p.bias), mean, var, true, momentum, eps, false)
}

/// Inference-time batch normalisation over the channels of `x` [N, C, H, W]: `γ·(x − μ)/√(σ² + ε) + β`.
pub fn batch_norm(x: &Tensor, p: &BatchNorm, eps: f64) -> Tensor {
    let (mean, var) = (Some(&p.running_mean), Some(&p.running_var));
    x.batch_norm(Some(&p.weight), Some(&p.bias), mean, var, false, 0.0, eps, false)
}
