//! What the kernel means.

use crate::gemm::PackedMatrix;
use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// `out[b, y, x] = W · g` with `g` = in[b, 2y, 2x] ‖ in[b, 2y+1, 2x] ‖ in[b, 2y, 2x+1] ‖ in[b, 2y+1, 2x+1] (4C; row offset
/// varies first; zero outside an odd-sized map), normed before (V1: over 4C) or after (V2: over 2C), ε 1e-5. No bias.
///
/// Output [batch, ⌈h/2⌉, ⌈w/2⌉, 2C]. FLOPs 16·C²·output pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PatchMergeSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Input channels C.
    pub channels: usize,
    /// Where the layer norm stands.
    pub norm: MergeNorm,
    /// ε of the norm.
    pub eps: f32,
}

impl PatchMergeSpec {
    /// Output height and width.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|side| side.div_ceil(2))
    }

    /// Floating-point operations of the product, two per multiply-add; the norm's are not counted.
    pub fn flops(&self) -> usize {
        16 * self.channels * self.channels * self.batch * self.output().iter().product::<usize>()
    }

    /// Bytes read and written once each: input, weight, output, and the f32 norm.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.input.iter().product::<usize>() + 2 * self.output().iter().product::<usize>();
        let norm = 2 * if self.norm == MergeNorm::Before { 4 } else { 2 } * self.channels;
        (self.batch * pixels + 8 * self.channels) * self.channels * dtype.size() + norm * size_of::<f32>()
    }
}

/// Where the layer norm of a patch merge stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MergeNorm {
    /// Swin V1: over the gathered 4C.
    Before,
    /// Swin V2: over the product's 2C.
    After,
}

/// Operands of one call.
pub struct PatchMergeOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// γ and β, `[4C]` (before) or `[2C]` (after).
    pub norm: (&'a [f32], &'a [f32]),
    /// [2C, 4C]
    pub weight: &'a PackedMatrix,
    /// [batch, ⌈h/2⌉, ⌈w/2⌉, 2C]
    pub out: &'a mut [T],
}

/// Un-fused part: the gather alone, x [batch, h, w, C] → [batch, ⌈h/2⌉, ⌈w/2⌉, 4C].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PatchGatherSpec {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Input channels C.
    pub channels: usize,
}

impl PatchGatherSpec {
    /// Output height and width.
    pub fn output(&self) -> [usize; 2] {
        self.input.map(|side| side.div_ceil(2))
    }

    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        let pixels = self.input.iter().product::<usize>() + 4 * self.output().iter().product::<usize>();
        self.batch * pixels * self.channels * dtype.size()
    }
}

/// Operands of one call.
pub struct PatchGatherOperands<'a, T: Element> {
    /// [batch, h, w, C]
    pub x: &'a [T],
    /// [batch, ⌈h/2⌉, ⌈w/2⌉, 4C]
    pub out: &'a mut [T],
}
