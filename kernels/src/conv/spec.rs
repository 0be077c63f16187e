//! What the kernel means.

use crate::epilogue::EpilogueOperands;
use crate::gemm::PackedMatrix;
use crate::{Element, Epilogue};
use serde::{Deserialize, Serialize};

/// `out[b, y, x, o] = epilogue(Σ_{i, j, c} in[b, y·s + i − p, x·s + j − p, c] · weight[o, (i·kw + j)·C + c])`, zero padding.
///
/// Layout NHWC. Output side = (side + 2·padding − kernel) / stride + 1, rounded down. FLOPs 2·b·oh·ow·O·kh·kw·C.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConvSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Input channels C.
    pub channels: usize,
    /// Output channels O.
    pub out_channels: usize,
    /// Kernel height and width (square in all our networks: one number).
    pub kernel: usize,
    /// Stride, both ways.
    pub stride: usize,
    /// Zero padding, all four sides.
    pub padding: usize,
    /// What happens to the sum.
    pub epilogue: Epilogue,
}

/// Operands of one call.
pub struct ConvOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// [O, kh·kw·C] packed; the inner order is row, column, channel.
    pub weight: &'a PackedMatrix,
    /// The epilogue's operands, rows being output pixels.
    pub epilogue: EpilogueOperands<'a, T>,
    /// [batch, oh, ow, O]
    pub out: &'a mut [T],
}
