//! What the kernel means.

use serde::{Deserialize, Serialize};

/// With `p = softmax(logits)` per pixel and t one-hot of its label:
///
/// - cross-entropy: the mean over all pixels of the batch of `−ln p[label]`, no class weights, no label ignored;
/// - dice: the mean over all classes, the background too, of `1 − (2Σpt + 1e-5)/(Σp² + Σt² + 1e-5)`, sums over all pixels
///   of the batch;
/// - the loss is half the one plus half the other (the published recipe's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossSpec {
    /// Images.
    pub batch: usize,
    /// Pixels of one image.
    pub pixels: usize,
    /// Classes T.
    pub classes: usize,
}

impl LossSpec {
    /// Floating-point operations of both sweeps, with some 12 for an exponential.
    pub fn flops(&self) -> usize {
        40 * self.batch * self.pixels * self.classes
    }

    /// Bytes of memory traffic: logits read twice, labels read twice, the gradient written.
    pub fn bytes(&self) -> usize {
        self.batch * self.pixels * (3 * 4 * self.classes + 2)
    }
}

/// Operands of one call.
pub struct LossOperands<'a> {
    /// [batch, pixels, T]
    pub logits: &'a [f32],
    /// [batch, pixels], each below T.
    pub labels: &'a [u8],
    /// Factor on the gradient; the losses are without it.
    pub scale: f32,
    /// [batch, pixels, T], overwritten by `scale` times the gradient; none: the loss alone.
    pub d_logits: Option<&'a mut [f32]>,
}

/// The loss of a batch and its two parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Half of each part.
    pub total: f64,
    /// Mean cross-entropy.
    pub cross_entropy: f64,
    /// Mean dice loss.
    pub dice: f64,
}

/// A label that is no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "label {label} at pixel {pixel} of image {image} of the batch, expected 0 to {} for {classes} classes; correct the \
     label map",
    .classes - 1
)]
pub struct LabelError {
    /// Image of the batch.
    pub image: usize,
    /// Its pixel, row by row.
    pub pixel: usize,
    /// What is there.
    pub label: u8,
    /// Classes there are.
    pub classes: usize,
}
