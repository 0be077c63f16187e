//! Operators that move or merge pixels.

use tch::Tensor;

/// Bilinear resampling of [N, C, h, w] to `height`×`width`, pixel centres aligned (`align_corners=False`), no antialias.
pub fn bilinear(x: &Tensor, height: i64, width: i64) -> Tensor {
    x.upsample_bilinear2d([height, width], false, None, None)
}

/// Max pooling of [N, C, h, w], kernel 3, stride 2, padding 1 (ResNet's stem).
pub fn max_pool_3x3(x: &Tensor) -> Tensor {
    x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
}
