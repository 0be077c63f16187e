//! Multi-layer perceptrons: linear layers with an activation between, none at the end.

use crate::{elementwise::activate, gemm::linear};
use segface_kernels::Act;
use tch::Tensor;

/// Weight [out, in] and bias `[out]` of one layer.
#[derive(Debug)]
pub struct Linear {
    /// [out, in]
    pub weight: Tensor,
    /// `[out]`
    pub bias: Tensor,
}

impl Linear {
    /// `x·Wᵀ + b` over the last axis.
    pub fn apply(&self, x: &Tensor) -> Tensor {
        linear(x, &self.weight, Some(&self.bias))
    }
}

/// `x` [..., in] through every layer. Transformer blocks: two layers, GELU. Class tokens: two layers, ReLU.
/// The hypernetwork of the mask head: three layers, ReLU.
pub fn mlp(x: &Tensor, layers: &[Linear], activation: Act) -> Tensor {
    let (last, hidden) = layers.split_last().expect("an MLP has a layer");
    let hidden = hidden.iter().fold(x.shallow_clone(), |x, layer| activate(activation, &layer.apply(&x)));
    last.apply(&hidden)
}
