//! What the kernel means.

use crate::{Act, Element};
use serde::{Deserialize, Serialize};

/// `out[b, y, x, c] = act(bias[c] + Σ_{i, j} in[b, y·s + i − p, x·s + j − p, c] · weight[i·k + j, c])`, p = (k − 1)/2.
///
/// With `pool`, also `sums[b, c] = Σ_{y, x} out[b, y, x, c]` (f32, of the values before rounding to T), in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DepthwiseSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Channels.
    pub channels: usize,
    /// 3, 5 or 7.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Activation after the bias.
    pub act: Act,
    /// Whether to sum the output over each image.
    pub pool: bool,
}

/// Operands of one call.
pub struct DepthwiseOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// [k·k, C], f32 in every precision.
    pub weight: &'a [f32],
    /// [C]; none means zero.
    pub bias: Option<&'a [f32]>,
    /// [batch, oh, ow, C]
    pub out: &'a mut [T],
    /// [batch, C], present when the spec says `pool`.
    pub sums: Option<&'a mut [f32]>,
}
