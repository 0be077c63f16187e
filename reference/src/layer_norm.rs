//! Layer normalisation over channels.

use tch::Tensor;

/// Over the last axis: `x` [..., C], `weight` and `bias` `[C]`, biased variance.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    x.layer_norm(weight.size(), Some(weight), Some(bias), eps, false)
}

/// Over the channels of `x` [N, C, H, W].
pub fn layer_norm_2d(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Tensor {
    layer_norm(&x.permute([0, 2, 3, 1]), weight, bias, eps).permute([0, 3, 1, 2])
}
