//! What the kernel means.

use crate::{Act, Element};
use serde::{Deserialize, Serialize};

/// One elementwise operator on x [rows, channels].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ElementwiseSpec {
    /// Rows of x and out.
    pub rows: usize,
    /// Row length.
    pub channels: usize,
    /// What is computed.
    pub op: ElementwiseOp,
}

/// What an elementwise call computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum ElementwiseOp {
    /// `act(x)`
    Act(Act),
    /// `x + other`, where other has `other_rows` rows and is repeated (rows is a multiple of other_rows).
    Add {
        /// Rows of the other operand.
        other_rows: usize,
    },
    /// `x · scale[c]`
    Scale,
    /// `x · gate[row / rows_per_gate, c]`
    Gate {
        /// Rows of one image.
        rows_per_gate: usize,
    },
    /// `(x − mean[c]) / √(var[c] + eps) · γ[c] + β[c]` with stored statistics.
    BatchNorm {
        /// ε
        eps: f32,
    },
}

/// Operands of one call; those that the op does not name are `None` or empty.
pub struct ElementwiseOperands<'a, T: Element> {
    /// [rows, channels]; `None`: in place.
    pub x: Option<&'a [T]>,
    /// Add's other operand.
    pub other: Option<&'a [T]>,
    /// Scale's [channels] or Gate's [rows / rows_per_gate, channels].
    pub factors: &'a [f32],
    /// BatchNorm's γ, β, mean, var, [channels] each.
    pub statistics: Option<[&'a [f32]; 4]>,
    /// [rows, channels]
    pub out: &'a mut [T],
}
