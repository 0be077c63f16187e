//! Attention between class tokens and image tokens (SAM's two-way transformer).

use crate::{attention::attention, mlp::Linear};
use tch::Tensor;

/// The four projections of one attention. Inside width D (256 for self-attention, 128 for cross-attention) is split
/// evenly over the heads.
#[derive(Debug)]
pub struct Attention {
    /// 256 → D
    pub q: Linear,
    /// 256 → D
    pub k: Linear,
    /// 256 → D
    pub v: Linear,
    /// D → 256
    pub out: Linear,
    /// Number of heads; 8 in every published network.
    pub heads: i64,
}

impl Attention {
    /// `out(softmax(q·kᵀ/√head) · v)`: `q` [N, Tq, 256], `k` and `v` [N, Tk, 256], result [N, Tq, 256].
    pub fn apply(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let (q, k, v) = (self.q.apply(q), self.k.apply(k), self.v.apply(v));
        let head = q.size()[2] / self.heads;
        self.out.apply(&attention(&q, &k, &v, self.heads, (head as f64).powf(-0.5)))
    }
}

/// Weight and bias `[256]` of a layer norm with ε 1e-5.
#[derive(Debug)]
pub struct Norm {
    /// γ
    pub weight: Tensor,
    /// β
    pub bias: Tensor,
}

impl Norm {
    /// Layer norm over the last axis.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        crate::layer_norm::layer_norm(x, &self.weight, &self.bias, 1e-5)
    }
}

/// Tokens look at the image: `norm(Q + attention(q = Q + Q_pe, k = K + PE, v = K))`.
///
/// `tokens`, `token_pe` [N, T, 256]; `image` [N, P, 256]; `image_pe` [1 or N, P, 256].
pub fn token_to_image(
    tokens: &Tensor,
    token_pe: &Tensor,
    image: &Tensor,
    image_pe: &Tensor,
    attention: &Attention,
    norm: &Norm,
) -> Tensor {
    norm.apply(&(tokens + attention.apply(&(tokens + token_pe), &(image + image_pe), image)))
}

/// The image looks at the tokens: `norm(K + attention(q = K + PE, k = Q + Q_pe, v = Q))`. Shapes as above.
pub fn image_to_token(
    tokens: &Tensor,
    token_pe: &Tensor,
    image: &Tensor,
    image_pe: &Tensor,
    attention: &Attention,
    norm: &Norm,
) -> Tensor {
    norm.apply(&(image + attention.apply(&(image + image_pe), &(tokens + token_pe), tokens)))
}
