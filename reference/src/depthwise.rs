//! Depthwise convolution: one filter per channel.

use tch::Tensor;

/// `x` [N, C, H, W], `weight` [C, 1, k, k], `bias` `[C]`, zero padding (k − 1)/2 on all four sides.
pub fn depthwise(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride: i64) -> Tensor {
    let padding = (weight.size()[2] - 1) / 2;
    x.conv2d(weight, bias, [stride, stride], [padding, padding], [1, 1], weight.size()[0])
}
