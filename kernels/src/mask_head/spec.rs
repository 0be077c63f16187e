//! What the kernel means.

use crate::gemm::PackedMatrix;
use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// Per image token: `a = W1 · k + b1` (4 sub-pixels × 64), each 64 normed (ε 1e-6) and GELU, `u = gelu(W2 · a + b2)` (4 × 32),
/// `logits[t] = hyper[t] · u`. Both transposed convolutions are 2×2 stride 2 and do not overlap, so a token alone decides
/// its 4×4 output pixels.
///
/// W1 [4·64, 256]: row (i·2 + j)·64 + c is output channel c at sub-pixel (i, j). W2 [4·32, 64] likewise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MaskHeadSpec {
    /// Images.
    pub batch: usize,
    /// Height and width of the token map.
    pub input: [usize; 2],
    /// Classes T.
    pub classes: usize,
    /// What is written.
    pub output: MaskHeadOutput,
}

impl MaskHeadSpec {
    /// Image tokens of the batch.
    pub(crate) fn image_tokens(&self) -> usize {
        self.batch * self.input[0] * self.input[1]
    }

    /// Floating-point operations, two per multiply-add of the products.
    pub fn flops(&self) -> u64 {
        (2 * self.image_tokens() * (256 * 256 + 4 * 64 * 128 + 16 * 32 * self.classes)) as u64
    }

    /// Bytes of memory traffic: image tokens and weights read, logits or labels written.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let read =
            (self.image_tokens() * 256 + 256 * 256 + 128 * 64) * dtype.size() + self.batch * self.classes * 32 * 4;
        let pixel = match self.output {
            MaskHeadOutput::Logits => self.classes * 4,
            MaskHeadOutput::Labels => 1,
        };
        (read + 16 * self.image_tokens() * pixel) as u64
    }
}

/// What a mask head writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaskHeadOutput {
    /// Logits, f32 [batch, 4h, 4w, T].
    Logits,
    /// Class of the largest logit (the first on ties), u8 [batch, 4h, 4w].
    Labels,
}

/// Operands of one call. Exactly one of `logits` and `labels` is present.
pub struct MaskHeadOperands<'a, T: Element> {
    /// [batch, h, w, 256]
    pub x: &'a [T],
    /// W1 [256, 256]
    pub weight1: &'a PackedMatrix,
    /// b1 `[64]`
    pub bias1: &'a [f32],
    /// γ and β of the norm, `[64]` each.
    pub norm: (&'a [f32], &'a [f32]),
    /// W2 [128, 64]
    pub weight2: &'a PackedMatrix,
    /// b2 `[32]`
    pub bias2: &'a [f32],
    /// [batch, T, 32]
    pub hyper: &'a [f32],
    /// [batch, 4h, 4w, T]
    pub logits: Option<&'a mut [f32]>,
    /// [batch, 4h, 4w]
    pub labels: Option<&'a mut [u8]>,
}

/// Un-fused part: `logits[b, p, t] = hyper[b, t]·u[b, p]`, u [batch, pixels, 32] of T, hyper [batch, T, 32] → f32 [batch, pixels, T].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MaskProductSpec {
    /// Images.
    pub batch: usize,
    /// Output pixels of one image.
    pub pixels: usize,
    /// Classes T.
    pub classes: usize,
}

impl MaskProductSpec {
    /// Floating-point operations, two per multiply-add.
    pub fn flops(&self) -> u64 {
        (2 * self.batch * self.pixels * 32 * self.classes) as u64
    }

    /// Bytes of memory traffic: u and hyper read, logits written.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let u = self.pixels * 32 * dtype.size();
        (self.batch * (u + self.classes * 32 * 4 + self.pixels * self.classes * 4)) as u64
    }
}

/// Un-fused part: logits f32 [rows, T] → u8 `[rows]`, the first of equal maxima.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ArgMaxSpec {
    /// Rows (pixels of the batch).
    pub rows: usize,
    /// Classes T.
    pub classes: usize,
}

impl ArgMaxSpec {
    /// Bytes of memory traffic: logits read, labels written.
    pub fn bytes(&self) -> u64 {
        (self.rows * (self.classes * 4 + 1)) as u64
    }
}
