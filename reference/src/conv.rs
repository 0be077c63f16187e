//! Dense convolution.

use tch::Tensor;

/// 2-D convolution: `x` [N, C, H, W], `weight` [out, C, k, k], `bias` `[out]`, zero padding on all four sides.
pub fn conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64, padding: i64) -> Tensor {
    x.conv2d(weight, bias, [stride, stride], [padding, padding], [1, 1], 1)
}
