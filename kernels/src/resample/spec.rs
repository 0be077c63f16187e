//! What the kernels mean. All NHWC.

use crate::DType;
use serde::{Deserialize, Serialize};

/// Bilinear resize, align_corners = false, no antialias (torch's `interpolate`).
/// x [batch, ih, iw, C] → out [batch, oh, ow, C].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BilinearSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width.
    pub output: [usize; 2],
    /// Channels.
    pub channels: usize,
}

impl BilinearSpec {
    /// Floating-point operations: three interpolations of three each per output element.
    pub fn flops(&self) -> usize {
        9 * self.batch * self.output[0] * self.output[1] * self.channels
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.input[0] * self.input[1] + self.output[0] * self.output[1];
        self.batch * pixels * self.channels * dtype.size()
    }
}

/// `out[r] = x_0[r] ‖ x_1[r] ‖ x_2[r] ‖ x_3[r]`, four operands of [rows, channels`[i]`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConcatSpec {
    /// Rows.
    pub rows: usize,
    /// Row lengths of the operands.
    pub channels: [usize; 4],
}

impl ConcatSpec {
    /// Length of an output row.
    pub fn out_channels(&self) -> usize {
        self.channels.iter().sum()
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        2 * self.rows * self.out_channels() * dtype.size()
    }
}

/// Space from channels: x [batch, h, w, 4·C] → out [batch, 2h, 2w, C], `out[b, 2y+i, 2x+j, c] = x[b, y, x, (i·2 + j)·C + c]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PixelShuffleSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output channels C.
    pub channels: usize,
}

impl PixelShuffleSpec {
    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        8 * self.batch * self.input[0] * self.input[1] * self.channels * dtype.size()
    }
}

/// Max pooling 3×3, stride 2, padding 1 (ResNet's stem); padding never wins.
/// x [batch, h, w, C] → out [batch, (h−1)/2+1, (w−1)/2+1, C].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MaxPoolSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Channels.
    pub channels: usize,
}

impl MaxPoolSpec {
    /// Output height and width: half the input's, rounded up.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|side| side.div_ceil(2))
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.input[0] * self.input[1] + self.output()[0] * self.output()[1];
        self.batch * pixels * self.channels * dtype.size()
    }
}

/// Sums over each image's pixels: x [batch, pixels, C] of T → out [batch, C] f32, in a fixed order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SumPoolSpec {
    /// Images.
    pub batch: usize,
    /// Pixels of one image.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
}

impl SumPoolSpec {
    /// Floating-point operations: one addition per element.
    pub fn flops(&self) -> usize {
        self.batch * self.pixels * self.channels
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        self.batch * self.channels * (self.pixels * dtype.size() + 4)
    }
}
