//! What the kernel means.

use crate::Element;
use serde::{Deserialize, Serialize};

/// `out[r] = (x[r] − mean(x[r])) / √(var(x[r]) + eps) · γ + β`, biased variance, statistics in f32 (two passes or Welford:
/// never E[x²] − E[x]²).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerNormSpec {
    /// Rows.
    pub rows: usize,
    /// Length of a row.
    pub channels: usize,
    /// ε
    pub eps: f32,
}

/// Operands of one call.
pub struct LayerNormOperands<'a, T: Element> {
    /// [rows, channels]; `None`: in place.
    pub x: Option<&'a [T]>,
    /// γ [channels]
    pub weight: &'a [f32],
    /// β [channels]
    pub bias: &'a [f32],
    /// [rows, channels]
    pub out: &'a mut [T],
}
