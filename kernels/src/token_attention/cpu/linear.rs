//! Linear layers on the class tokens: few rows, so that reading the weights once, with all threads, is what counts.

use crate::context::{Disjoint, scratch_bytes};
use crate::gemm::tile;
use crate::simd::{Kernel, Vector, dispatch};
use crate::token_attention::{LinearWeights, ProjectionWeights};
use crate::{Act, Context, Isa};

/// Columns of one task: a head of the cross-attentions.
const COLUMNS: usize = 16;

/// Columns of one task of a packed layer.
const PACKED_COLUMNS: usize = 32;

/// Where a projection finds the k inputs of class token (image, t), which may differ from head to head.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) data: &'a [f32],
    pub(super) tokens: usize,
    /// From one image to the next.
    pub(super) image_stride: usize,
    /// From one group of 16 outputs to the next.
    pub(super) head_stride: usize,
}

impl<'a> Inputs<'a> {
    /// [batch, tokens, k], the same for all heads.
    pub(super) fn plain(data: &'a [f32], tokens: usize, k: usize) -> Self {
        Self { data, tokens, image_stride: tokens * k, head_stride: 0 }
    }
}

/// `out[row, n] = Σ_k x[row, k]·W[n, k] + b[n]`, row = image · tokens + t, n a multiple of 16.
///
/// # Panics
/// If a slice is too short.
pub(super) fn project(
    ctx: &mut Context,
    rows: usize,
    k: usize,
    x: Inputs<'_>,
    layer: ProjectionWeights<'_>,
    out: &mut [f32],
) {
    let n = layer.bias.len();
    assert!(layer.weight.len() == n * k && out.len() == rows * n && n.is_multiple_of(COLUMNS), "[{n}, {k}] weights");
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    ctx.parallel(n / COLUMNS, 0, |task, _| {
        let column = task * COLUMNS;
        let weight = &layer.weight[column * k..][..COLUMNS * k];
        let bias = &layer.bias[column..][..COLUMNS];
        for row in 0..rows {
            let start = row / x.tokens * x.image_stride + task * x.head_stride + row % x.tokens * k;
            // SAFETY: each task has its own columns.
            let out = unsafe { out.slice(row * n + column, COLUMNS) };
            dispatch(isa, Dots { x: &x.data[start..start + k], weight, bias, out });
        }
    });
}

/// Sixteen outputs of one row.
struct Dots<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let k = self.x.len();
        assert!(k.is_multiple_of(16) && self.weight.len() == COLUMNS * k);
        for column in (0..COLUMNS).step_by(4) {
            let mut sums = [V::zero(); 4];
            for i in (0..k).step_by(V::LANES) {
                // SAFETY: k is a multiple of any vector's lanes.
                unsafe {
                    let x = V::load(self.x.as_ptr().add(i));
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = x.mul_add(V::load(self.weight.as_ptr().add((column + c) * k + i)), *sum);
                    }
                }
            }
            for (c, sum) in sums.iter().enumerate() {
                self.out[column + c] = sum.reduce_add() + self.bias[column + c];
            }
        }
    }
}

/// `out[row, n] = act(Σ_k x[row, k]·W[n, k] + b[n])` with packed weights.
///
/// # Panics
/// If a slice has the wrong length.
pub(super) fn packed_linear(
    ctx: &mut Context,
    rows: usize,
    x: &[f32],
    layer: LinearWeights<'_>,
    act: Act,
    out: &mut [f32],
) {
    let (n, k) = (layer.weight.n(), layer.weight.k());
    assert!(x.len() == rows * k && layer.bias.len() == n && out.len() == rows * n, "[{n}, {k}] weights");
    let isa: Isa = ctx.isa();
    let out = Disjoint::new(out);
    ctx.parallel(n.div_ceil(PACKED_COLUMNS), scratch_bytes::<f32>(rows * PACKED_COLUMNS), |task, mut scratch| {
        let columns = task * PACKED_COLUMNS..n.min((task + 1) * PACKED_COLUMNS);
        let width = columns.len();
        let bias = &layer.bias[columns.clone()];
        let start = columns.start;
        let sums = scratch.take::<f32>(rows * width);
        tile(isa, rows, x, k, layer.weight.view(), columns, sums, width, false);
        for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
            act.apply_slice(isa, sums);
            // SAFETY: each task has its own columns.
            unsafe { out.slice(row * n + start, width) }.copy_from_slice(sums);
        }
    });
}
