//! What the kernel means.

use crate::epilogue::EpilogueOperands;
use crate::gemm::PackedMatrix;
use crate::{DType, Element, Epilogue};
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

impl ConvSpec {
    /// Output height and width; 0 where the padded input is smaller than the kernel.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|side| match (side + 2 * self.padding).checked_sub(self.kernel) {
            Some(reach) => reach / self.stride + 1,
            None => 0,
        })
    }

    /// Output pixels of the whole batch: rows of the product.
    pub fn rows(&self) -> usize {
        let [height, width] = self.output();
        self.batch * height * width
    }

    /// Inner dimension of the product, kernel² · C.
    pub fn depth(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// Floating-point operations, two per multiply-add; the epilogue's are not counted.
    pub fn flops(&self) -> usize {
        2 * self.rows() * self.out_channels * self.depth()
    }

    /// Bytes read and written once each: input, weight, output, and the residual if there is one.
    pub fn bytes(&self, dtype: DType) -> usize {
        let maps = self.rows() * self.out_channels * if self.epilogue.residual { 2 } else { 1 };
        let input = self.batch * self.input[0] * self.input[1] * self.channels;
        (input + maps + self.depth() * self.out_channels) * dtype.size()
    }
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
