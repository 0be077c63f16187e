//! What the kernel means.

use crate::epilogue::EpilogueOperands;
use crate::gemm::PackedMatrix;
use crate::{Act, Element, Epilogue};
use serde::{Deserialize, Serialize};

/// `out = epilogue(W2 · act(W1 · LN(x) + b1))` row by row; LN only if `norm` is set.
///
/// - Swin V1: norm before (ε 1e-5), residual = x in place.
/// - Swin V2: no norm before, epilogue norm (ε 1e-5) then residual in place.
/// - ConvNeXt: x is the depthwise output, norm before (ε 1e-6), layer scale, residual = the block's input.
///
/// FLOPs 4·rows·channels·hidden.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MlpSpec {
    /// Rows.
    pub rows: usize,
    /// Width of x and out.
    pub channels: usize,
    /// Width between the layers.
    pub hidden: usize,
    /// ε of the layer norm before, if there is one.
    pub norm: Option<f32>,
    /// Activation between the layers.
    pub act: Act,
    /// What happens to the second product; its bias is b2.
    pub epilogue: Epilogue,
}

/// Operands of one call.
pub struct MlpOperands<'a, T: Element> {
    /// [rows, channels]; `None` when it is the output buffer itself (in-place residual networks).
    pub x: Option<&'a [T]>,
    /// γ and β of the norm before, `[channels]` each.
    pub norm: Option<(&'a [f32], &'a [f32])>,
    /// W1 [hidden, channels]
    pub weight1: &'a PackedMatrix,
    /// b1 `[hidden]`
    pub bias1: &'a [f32],
    /// W2 [channels, hidden]
    pub weight2: &'a PackedMatrix,
    /// The epilogue's operands.
    pub epilogue: EpilogueOperands<'a, T>,
    /// [rows, channels]
    pub out: &'a mut [T],
}
