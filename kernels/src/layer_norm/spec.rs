//! What the kernel means.

use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// `out[r] = (x[r] − mean(x[r])) / √(var(x[r]) + eps) · γ + β`, biased variance, statistics in f32 (two passes or Welford:
/// never E`[x²]` − E`[x]`²).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerNormSpec {
    /// Rows.
    pub rows: usize,
    /// Length of a row.
    pub channels: usize,
    /// ε
    pub eps: f32,
}

impl LayerNormSpec {
    /// Floating-point operations: one for the mean, three for the variance, four for the result.
    pub fn flops(&self) -> usize {
        8 * self.rows * self.channels
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        2 * self.rows * self.channels * dtype.size() + 8 * self.channels
    }
}

/// Operands of one call.
pub struct LayerNormOperands<'a, T: Element> {
    /// [rows, channels]; `None`: in place.
    pub x: Option<&'a [T]>,
    /// γ `[channels]`
    pub weight: &'a [f32],
    /// β `[channels]`
    pub bias: &'a [f32],
    /// [rows, channels]
    pub out: &'a mut [T],
}
