//! From image tokens and class tokens to logits and labels.

use crate::{
    elementwise::activate,
    layer_norm::layer_norm_2d,
    mlp::{Linear, mlp},
};
use segface_kernels::Act;
use tch::Tensor;

/// Weights of the upscaling path and of the hypernetwork.
#[derive(Debug)]
pub struct MaskHead {
    /// Transposed convolution 256 → 64, kernel 2, stride 2: [256, 64, 2, 2].
    pub up1_weight: Tensor,
    /// `[64]`
    pub up1_bias: Tensor,
    /// `[64]`
    pub norm_weight: Tensor,
    /// `[64]`
    pub norm_bias: Tensor,
    /// Transposed convolution 64 → 32: [64, 32, 2, 2].
    pub up2_weight: Tensor,
    /// `[32]`
    pub up2_bias: Tensor,
    /// 256 → 256 → 256 → 32, the same for every token.
    pub hypernetwork: Vec<Linear>,
}

/// `U = gelu(up2(gelu(LN(up1(image)))))`, `logits[t, y, x] = hypernetwork(tokens)[t] · U[:, y, x]`.
///
/// `image` [N, 256, h, w], `tokens` [N, T, 256], result [N, T, 4h, 4w]. LN over channels with ε 1e-6, GELU exact.
pub fn mask_head(image: &Tensor, tokens: &Tensor, p: &MaskHead) -> Tensor {
    let up = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
        x.conv_transpose2d(weight, Some(bias), [2, 2], [0, 0], [0, 0], 1, [1, 1])
    };
    let x = layer_norm_2d(&up(image, &p.up1_weight, &p.up1_bias), &p.norm_weight, &p.norm_bias, 1e-6);
    let x = up(&activate(Act::Gelu, &x), &p.up2_weight, &p.up2_bias);
    let upscaled = activate(Act::Gelu, &x);
    let masks = mlp(tokens, &p.hypernetwork, Act::Relu);
    let (_, _, height, width) = upscaled.size4().expect("the upscaled map is [N, 32, H, W]");
    masks.matmul(&upscaled.flatten(2, 3)).unflatten(2, [height, width])
}

/// Label map [N, H, W] (int64) of `logits` [N, T, H, W]: the index of the greatest, the first one on ties.
pub fn labels(logits: &Tensor) -> Tensor {
    logits.argmax(1, false)
}
