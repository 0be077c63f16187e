//! What the kernels mean. All NHWC.

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

/// `out[r] = x_0[r] ‖ x_1[r] ‖ x_2[r] ‖ x_3[r]`, four operands of [rows, channels[i]].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConcatSpec {
    /// Rows.
    pub rows: usize,
    /// Row lengths of the operands.
    pub channels: [usize; 4],
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
