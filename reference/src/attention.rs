//! Plain multi-head attention, after the projections.

use tch::Tensor;

/// `softmax(q·kᵀ·scale)·v` head by head: `q` [N or 1, Tq, heads·d], `k` and `v` [N or 1, Tk, heads·d], result
/// [N, Tq, heads·d].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: i64, scale: f64) -> Tensor {
    let split = |x: &Tensor| x.unflatten(-1, [heads, -1]).transpose(1, 2);
    let scores = split(q).matmul(&split(k).transpose(-2, -1)) * scale;
    scores.softmax(-1, None).matmul(&split(v)).transpose(1, 2).flatten(2, 3)
}
