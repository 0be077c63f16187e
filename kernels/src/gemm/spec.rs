//! What the kernel means.

use super::PackedMatrix;
use crate::epilogue::EpilogueOperands;
use crate::{Element, Epilogue};
use serde::{Deserialize, Serialize};

/// `out[m, n] = epilogue(Σ_k prologue(x)[m, k] · weight[n, k])`
///
/// x: [rows, k], weight: [n, k] packed, out: [rows, n], all row-major. FLOPs 2·rows·n·k.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GemmSpec {
    /// Rows of x and out: pixels or tokens of the whole batch.
    pub rows: usize,
    /// Columns of out.
    pub n: usize,
    /// Columns of x.
    pub k: usize,
    /// What happens to x on the way in.
    pub prologue: Prologue,
    /// What happens to the product on the way out.
    pub epilogue: Epilogue,
}

/// What happens to a row of A before it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub enum Prologue {
    /// Nothing.
    #[default]
    None,
    /// Layer norm over the row: (x − mean)/√(var + ε)·γ + β, biased variance.
    LayerNorm {
        /// ε
        eps: f32,
    },
    /// Multiply by a gate per image and channel (squeeze-excite): row m takes `gate[m / rows_per_gate, k]`.
    Gate {
        /// Rows (pixels) of one image.
        rows_per_gate: usize,
    },
}

/// The operand a [`Prologue`] names.
#[derive(Debug, Clone, Copy, Default)]
pub enum PrologueOperands<'a> {
    /// There is none.
    #[default]
    None,
    /// γ and β, `[k]` each.
    LayerNorm(&'a [f32], &'a [f32]),
    /// [rows / rows_per_gate, k]
    Gate(&'a [f32]),
}

/// Operands of one call.
pub struct GemmOperands<'a, T: Element> {
    /// [rows, k]
    pub x: &'a [T],
    /// The prologue's operand.
    pub prologue: PrologueOperands<'a>,
    /// [n, k], packed for the context's instruction set.
    pub weight: &'a PackedMatrix,
    /// The epilogue's operands.
    pub epilogue: EpilogueOperands<'a, T>,
    /// [rows, n]
    pub out: &'a mut [T],
}
