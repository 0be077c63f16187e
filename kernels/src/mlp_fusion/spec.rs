//! What the kernel means.

use crate::gemm::PackedMatrix;
use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// `F = b + Σ_i bilinear(M_i · x_i → size of x_0)`, align_corners = false (SEGFACE algebra: linear layers commute with
/// bilinear upsampling, whose weights sum to one).
///
/// Output [batch, h_0, w_0, width]. FLOPs Σ 2·pixels_i·C_i·width and the interpolation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MlpFusionSpec {
    /// Images.
    pub batch: usize,
    /// Height, width and channels of the taps at strides 4, 8, 16, 32.
    pub taps: [[usize; 3]; 4],
    /// Output channels, 256.
    pub width: usize,
}

impl MlpFusionSpec {
    /// Floating-point operations: two per multiply-add of the products, seven per interpolated value.
    pub fn flops(&self) -> u64 {
        let product = |[height, width, channels]: &[usize; 3]| 2 * self.batch * height * width * channels * self.width;
        let interpolated = 3 * 7 * self.batch * self.taps[0][0] * self.taps[0][1] * self.width;
        (self.taps.iter().map(product).sum::<usize>() + interpolated) as u64
    }

    /// Bytes of memory traffic: taps and weights read, projected maps written and read, the output written.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let pixels = |[height, width, _]: &[usize; 3]| self.batch * height * width;
        let taps: usize = self.taps.iter().map(|tap| (pixels(tap) + self.width) * tap[2]).sum();
        ((taps + 2 * self.projected_len() + pixels(&self.taps[0]) * self.width) * dtype.size()) as u64
    }

    /// Elements of the projected maps of taps 1 to 3.
    pub fn projected_len(&self) -> usize {
        self.taps[1..].iter().map(|[height, width, _]| self.batch * height * width * self.width).sum()
    }
}

/// Operands of one call.
pub struct MlpFusionOperands<'a, T: Element> {
    /// [batch, h_i, w_i, C_i]
    pub taps: [&'a [T]; 4],
    /// M_i [width, C_i]
    pub weights: [&'a PackedMatrix; 4],
    /// b `[width]`
    pub bias: &'a [f32],
    /// Projected maps of taps 1 to 3 at their own resolution, one after another: Σ batch·h_i·w_i·width elements.
    pub projected: &'a mut [T],
    /// [batch, h_0, w_0, width]
    pub out: &'a mut [T],
}
