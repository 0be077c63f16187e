//! What the kernel means.

use crate::Act;
use serde::{Deserialize, Serialize};

/// `gate[b] = gate_act(W2 · act(W1 · sums[b] / pixels + b1) + b2)`
///
/// MobileNetV3: ReLU inside, hard-sigmoid gate. EfficientNetV2: SiLU inside, sigmoid gate. f32 in every precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SqueezeExciteSpec {
    /// Images.
    pub batch: usize,
    /// Pixels that were summed.
    pub pixels: usize,
    /// Channels C.
    pub channels: usize,
    /// Squeezed channels S.
    pub squeeze: usize,
    /// Activation between the products.
    pub act: Act,
    /// Activation of the gate.
    pub gate_act: Act,
}

impl SqueezeExciteSpec {
    /// Floating-point operations, two per multiply-add.
    pub fn flops(&self) -> usize {
        4 * self.batch * self.channels * self.squeeze
    }

    /// Bytes read and written once each: sums, both weights and biases, gate.
    pub fn bytes(&self) -> usize {
        4 * (2 * self.batch * self.channels + 2 * self.channels * self.squeeze + self.channels + self.squeeze)
    }
}

/// Operands of one call, all f32 row-major.
pub struct SqueezeExciteOperands<'a> {
    /// [batch, C]: sums over the image's pixels.
    pub sums: &'a [f32],
    /// W1 [S, C]
    pub squeeze_weight: &'a [f32],
    /// b1 `[S]`
    pub squeeze_bias: &'a [f32],
    /// W2 [C, S]
    pub excite_weight: &'a [f32],
    /// b2 `[C]`
    pub excite_bias: &'a [f32],
    /// [batch, C]
    pub gate: &'a mut [f32],
}
