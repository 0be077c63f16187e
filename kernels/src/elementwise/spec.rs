//! What the kernel means.

use crate::{Act, DType, Element};
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

impl ElementwiseSpec {
    /// Elements of x and out.
    pub fn len(&self) -> usize {
        self.rows * self.channels
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floating-point operations: one per element, two for batch norm, whose factors are computed once per channel.
    pub fn flops(&self) -> usize {
        self.len() * if matches!(self.op, ElementwiseOp::BatchNorm { .. }) { 2 } else { 1 }
    }

    /// Bytes read and written once each; the operands that are repeated over rows are not counted.
    pub fn bytes(&self, dtype: DType) -> usize {
        let others = if let ElementwiseOp::Add { other_rows } = self.op { other_rows * self.channels } else { 0 };
        (2 * self.len() + others) * dtype.size()
    }
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
    /// Scale's `[channels]` or Gate's [rows / rows_per_gate, channels].
    pub factors: &'a [f32],
    /// BatchNorm's γ, β, mean, var, `[channels]` each.
    pub statistics: Option<[&'a [f32]; 4]>,
    /// [rows, channels]
    pub out: &'a mut [T],
}
