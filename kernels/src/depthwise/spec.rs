//! What the kernel means.

use crate::{Act, DType, Element};
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

impl DepthwiseSpec {
    /// Output height and width: the input's divided by the stride, rounded up.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|side| side.div_ceil(self.stride))
    }

    /// Floating-point operations, two per multiply-add; bias, activation and sums are not counted.
    pub fn flops(&self) -> usize {
        let [height, width] = self.output();
        2 * self.batch * height * width * self.channels * self.kernel * self.kernel
    }

    /// Bytes read and written once each: input, f32 weight, output.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.input[0] * self.input[1] + self.output()[0] * self.output()[1];
        self.batch * pixels * self.channels * dtype.size() + self.kernel * self.kernel * self.channels * 4
    }
}

/// Operands of one call.
pub struct DepthwiseOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// [k·k, C], f32 in every precision.
    pub weight: &'a [f32],
    /// `[C]`; none means zero.
    pub bias: Option<&'a [f32]>,
    /// [batch, oh, ow, C]
    pub out: &'a mut [T],
    /// [batch, C], present when the spec says `pool`.
    pub sums: Option<&'a mut [f32]>,
}
