//! What the kernel means.

use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// `out[b, i, h] = Σ_j softmax_j(q[b, i, h]·k[b, j, h] · scale) · v[b, j, h]`
///
/// A batch of one in q, k or v is shared by all images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AttentionSpec {
    /// Batch of the output: the largest of the operands' batches.
    pub batch: usize,
    /// Queries.
    pub queries: usize,
    /// Keys.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

impl AttentionSpec {
    /// Floating-point operations, two per multiply-add of the products.
    pub fn flops(&self) -> u64 {
        (4 * self.batch * self.heads * self.queries * self.keys * self.head_dim) as u64
    }

    /// Bytes of memory traffic at most: q, k, v read, the output written.
    pub fn bytes(&self, dtype: DType) -> u64 {
        (2 * self.batch * (self.queries + self.keys) * self.heads * self.head_dim * dtype.size()) as u64
    }
}

/// Operands of one call.
pub struct AttentionOperands<'a, T: Element> {
    /// [batch or 1, queries, heads·head_dim]
    pub q: &'a [T],
    /// [batch or 1, keys, heads·head_dim]
    pub k: &'a [T],
    /// [batch or 1, keys, heads·head_dim]
    pub v: &'a [T],
    /// [batch, queries, heads·head_dim]
    pub out: &'a mut [T],
}
