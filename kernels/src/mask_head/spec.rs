//! What the kernel means.

use crate::Element;
use crate::gemm::PackedMatrix;
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
    /// b1 [64]
    pub bias1: &'a [f32],
    /// γ and β of the norm, [64] each.
    pub norm: (&'a [f32], &'a [f32]),
    /// W2 [128, 64]
    pub weight2: &'a PackedMatrix,
    /// b2 [32]
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

/// Un-fused part: logits f32 [rows, T] → u8 [rows], the first of equal maxima.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ArgMaxSpec {
    /// Rows (pixels of the batch).
    pub rows: usize,
    /// Classes T.
    pub classes: usize,
}
