//! The tile product every kernel is built on: C tile (f32 scratch) = A tile (rows of T) × packed B.

use crate::{DType, Element, Isa};
use serde::{Deserialize, Serialize};

/// A matrix B [n, k] (a weight, rows are output channels) laid out for one instruction set and element type.
///
/// The layout is private to this module: `n` and `k` are padded with zeros as the micro-kernel needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    dtype: DType,
    isa: Isa,
    data: Vec<f32>,
}

impl PackedMatrix {
    /// Packs B given as rows: `weight[n * k + k_index]`.
    pub fn pack<T: Element>(isa: Isa, n: usize, k: usize, weight: &[f32]) -> Self {
        assert_eq!(weight.len(), n * k);
        Self { n, k, dtype: T::DTYPE, isa, data: weight.to_vec() }
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// `c[i, j] (+)= Σ_k a[i, k] · b[columns.start + j, k]` for i in 0..m, j in 0..columns.len()
///
/// `a` is row-major with row stride `lda` (elements), `c` is row-major f32 with row stride `ldc`. Sums are f32.
/// With `accumulate` the product is added to `c`, else it overwrites.
#[allow(clippy::too_many_arguments)] // a BLAS-shaped call: grouping the strides would only hide them
pub fn tile<T: Element>(
    isa: Isa,
    m: usize,
    a: &[T],
    lda: usize,
    b: &PackedMatrix,
    columns: std::ops::Range<usize>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    assert!(b.isa == isa && b.dtype == T::DTYPE);
    let n = columns.len();
    for i in 0..m {
        for j in 0..n {
            let mut sum = if accumulate { c[i * ldc + j] } else { 0.0 };
            for l in 0..b.k {
                sum += a[i * lda + l].to_f32() * T::from_f32(b.data[(columns.start + j) * b.k + l]).to_f32();
            }
            c[i * ldc + j] = sum;
        }
    }
}
