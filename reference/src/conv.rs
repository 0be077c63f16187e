//! Dense convolution, batch normalisation, max pooling.

use tch::Tensor;

/// 2-D convolution: `x` [N, C, H, W], `weight` [out, C, k, k], `bias` [out], zero padding on all four sides.
pub fn conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64, padding: i64) -> Tensor {
    x.conv2d(weight, bias, [stride, stride], [padding, padding], [1, 1], 1)
}

/// Statistics and affine map of a batch normalisation, each [C].
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

/// Inference-time batch normalisation over the channels of `x` [N, C, H, W]: `γ·(x − μ)/√(σ² + ε) + β`.
pub fn batch_norm(x: &Tensor, p: &BatchNorm, eps: f64) -> Tensor {
    x.batch_norm(Some(&p.weight), Some(&p.bias), Some(&p.running_mean), Some(&p.running_var), false, 0.0, eps, false)
}

/// Max pooling, kernel 3, stride 2, padding 1 (ResNet's stem).
pub fn max_pool_3x3(x: &Tensor) -> Tensor {
    x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
}
