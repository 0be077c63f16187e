//! What the kernel means.

use crate::{Act, DType, Element};
use serde::{Deserialize, Serialize};

/// `out[r, c] = act((x[r, c] − mean[c]) / √(var[c] + eps) · γ[c] + β[c])` with mean and biased variance over the rows (all
/// pixels of the batch), and `running ← (1 − momentum)·running + momentum·(mean, rows/(rows − 1)·var)`.
///
/// Statistics are summed in f32 over blocks of rows around each block's own mean and merged in f64, in order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatchNormSpec {
    /// Pixels of the whole batch; at least two.
    pub rows: usize,
    /// Channels C.
    pub channels: usize,
    /// ε
    pub eps: f32,
    /// Weight of the batch in the running statistics.
    pub momentum: f32,
    /// Activation behind the norm.
    pub act: Act,
}

impl BatchNormSpec {
    /// Floating-point operations: four per element for the statistics, two for the result.
    pub fn flops(&self) -> usize {
        6 * self.rows * self.channels
    }

    /// Bytes: x read twice, out written.
    pub fn bytes(&self, dtype: DType) -> usize {
        3 * self.rows * self.channels * dtype.size()
    }
}

/// Operands of one call.
pub struct BatchNormOperands<'a, T: Element> {
    /// [rows, C]
    pub x: &'a [T],
    /// γ `[C]`
    pub weight: &'a [f32],
    /// β `[C]`
    pub bias: &'a [f32],
    /// Running mean and variance, `[C]` each, updated; none where nothing is to be updated.
    pub running: Option<(&'a mut [f32], &'a mut [f32])>,
    /// `[C]`: the batch's mean, kept for the backward pass.
    pub mean: &'a mut [f32],
    /// `[C]`: 1/√(var + ε) of the batch, kept for the backward pass.
    pub scale: &'a mut [f32],
    /// [rows, C]
    pub out: &'a mut [T],
}
