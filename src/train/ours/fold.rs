//! The folded fusion's matrices `M = F·W`, F being columns of the fusion's weight: made anew in every step, and their gradients taken back,
//! as products on all threads. (The recipe's own arithmetic is f64 on one thread: good for folding once.)

use segface_kernels::epilogue::EpilogueOperands;
use segface_kernels::gemm::backward::{GemmWeightOperands, gemm_weight};
use segface_kernels::gemm::plain::{PlainOperands, PlainWeight, gemm_plain};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::{Context, Epilogue};

/// One folded matrix.
pub(super) struct Fold<'a> {
    /// The fusion's weight, [rows, row_len].
    pub(super) fusion: &'a [f32],
    pub(super) row_len: usize,
    /// Where F begins in a row.
    pub(super) column: usize,
    /// W [j, k]; F is [rows, j].
    pub(super) projection: &'a [f32],
    pub(super) size: [usize; 2],
}

impl Fold<'_> {
    fn rows(&self) -> usize {
        self.fusion.len() / self.row_len
    }

    /// F, rows side by side.
    fn columns(&self) -> Vec<f32> {
        let range = self.column..self.column + self.size[0];
        self.fusion.chunks_exact(self.row_len).flat_map(|row| &row[range.clone()]).copied().collect()
    }

    fn product(context: &mut Context, [rows, n, k]: [usize; 3], x: &[f32], weight: PlainWeight<'_>) -> Vec<f32> {
        let spec = GemmSpec { rows, n, k, prologue: Prologue::None, epilogue: Epilogue::default() };
        let mut out = vec![0.0; rows * n];
        let epilogue = EpilogueOperands::default();
        let operands = PlainOperands { x, weight, epilogue, slope: None, out: &mut out };
        gemm_plain(context, &spec, operands);
        out
    }

    /// M [rows, k].
    pub(super) fn matrix(&self, context: &mut Context) -> Vec<f32> {
        let [j, k] = self.size;
        Self::product(context, [self.rows(), k, j], &self.columns(), PlainWeight::Columns(self.projection))
    }

    /// Adds the gradients of F (to those of the fusion's weight) and of W, as far as they are trained: `dF = dM·Wᵀ`, `dW = Fᵀ·dM`.
    pub(super) fn adjoint(
        &self,
        context: &mut Context,
        d: &[f32],
        d_fusion: Option<&mut [f32]>,
        d_projection: Option<&mut [f32]>,
    ) {
        let ([j, k], rows) = (self.size, self.rows());
        if let Some(d_fusion) = d_fusion {
            let d_columns = Self::product(context, [rows, j, k], d, PlainWeight::Rows(self.projection));
            for (row, d_row) in d_fusion.chunks_exact_mut(self.row_len).zip(d_columns.chunks_exact(j)) {
                row[self.column..self.column + j].iter_mut().zip(d_row).for_each(|(sum, d)| *sum += d);
            }
        }
        if d_projection.is_some() {
            let columns = self.columns();
            let operands = GemmWeightOperands { x: d, d_out: &columns, d_weight: d_projection, d_bias: None };
            gemm_weight(context, rows, j, k, operands);
        }
    }
}
