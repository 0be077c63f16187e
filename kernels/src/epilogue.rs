//! What happens to an accumulator tile before it is stored: shared by `gemm`, `conv`, `mlp` and `patch_merge`.

use crate::{Act, Element};
use serde::{Deserialize, Serialize};

/// The steps between accumulator and stored value, in this order, each optional:
///
/// `y = acc + bias[n]` → `act` → `× scale[n]` → layer norm over n (γ, β) → `+ residual[m, n]` → `act_after`
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Epilogue {
    /// Add `bias[n]`.
    pub bias: bool,
    /// Activation right after the bias.
    pub act: Act,
    /// Multiply by `scale[n]` (ConvNeXt's layer scale).
    pub scale: bool,
    /// Layer norm over the output channels with this ε (Swin V2's post-norm).
    pub norm: Option<f32>,
    /// Add the residual.
    pub residual: bool,
    /// Activation after the residual (ResNet).
    pub act_after: Act,
}

/// The operands an [`Epilogue`] names. Exactly those its flags ask for are present.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpilogueOperands<'a, T: Element> {
    /// [n]
    pub bias: Option<&'a [f32]>,
    /// [n]
    pub scale: Option<&'a [f32]>,
    /// γ and β of the norm, [n] each.
    pub norm: Option<(&'a [f32], &'a [f32])>,
    /// Where the residual comes from.
    pub residual: Residual<'a, T>,
}

/// Source of the residual operand.
#[derive(Debug, Clone, Copy, Default)]
pub enum Residual<'a, T: Element> {
    /// There is none.
    #[default]
    None,
    /// The output buffer holds it: read, added to and overwritten element by element.
    InPlace,
    /// Another buffer of the output's shape.
    From(&'a [T]),
}
