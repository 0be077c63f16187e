//! The CPU twin.
//!
//! A task is a tile of rows. The hidden layer is made in chunks of columns that stay in the cache: first product, bias and
//! activation into scratch of T, which the second product adds to the f32 tile of the output.

use super::{MlpOperands, MlpSpec};
use crate::context::{Disjoint, scratch_bytes};
use crate::epilogue::{self, EpilogueOperands, Region, Residual};
use crate::gemm::{PANEL, tile};
use crate::{Context, Element, Epilogue, rows};

/// Rows of a task at most.
const ROWS: usize = 128;

/// Columns of the hidden layer that are in scratch at a time: a multiple of the depth that packed matrices are cut at.
const HIDDEN: usize = 512;

/// Values of the f32 tile between the first product and the activation: 32 KiB.
const CHUNK: usize = 8192;

/// Computes [`MlpSpec`].
///
/// # Panics
/// If an operand has not the size that the spec says, or is missing.
pub fn mlp<T: Element>(ctx: &mut Context, spec: &MlpSpec, operands: MlpOperands<'_, T>) {
    let MlpSpec { rows, channels, hidden, norm, act, epilogue } = *spec;
    let MlpOperands { x, norm: norm_operands, weight1, bias1, weight2, epilogue: epilogue_operands, out } = operands;
    let size = rows * channels;
    assert!(x.is_none_or(|x| x.len() == size), "x holds {:?} elements, not [{rows}, {channels}]", x.map(<[T]>::len));
    assert!(out.len() == size, "out holds {} elements, expected [{rows}, {channels}]", out.len());
    for (name, weight, n, k) in [("weight1", weight1, hidden, channels), ("weight2", weight2, channels, hidden)] {
        assert!(weight.n() == n && weight.k() == k, "{name} is [{}, {}], not [{n}, {k}]", weight.n(), weight.k());
    }
    assert!(norm.is_some() == norm_operands.is_some(), "norm flag and operands differ");
    if size == 0 {
        return;
    }
    let isa = ctx.isa();
    let row_tile = row_tile(rows, ctx.threads());
    let depth = HIDDEN.min(hidden);
    let chunk = (CHUNK / row_tile / PANEL * PANEL).max(2 * PANEL).min(depth);
    let normed_len = if norm.is_some() { row_tile * channels } else { 0 };
    let scratch = scratch_bytes::<T>(normed_len)
        + scratch_bytes::<f32>(row_tile * chunk)
        + scratch_bytes::<T>(row_tile * depth)
        + scratch_bytes::<f32>(row_tile * channels);
    let first_epilogue = Epilogue { bias: true, act, ..Epilogue::default() };
    let out = Disjoint::new(out);
    ctx.parallel(rows.div_ceil(row_tile), scratch, |task, mut scratch| {
        let first = task * row_tile;
        let count = row_tile.min(rows - first);
        let normed = scratch.take::<T>(normed_len);
        let product = scratch.take::<f32>(row_tile * chunk);
        let middle = scratch.take::<T>(row_tile * depth);
        let sums = scratch.take::<f32>(row_tile * channels);
        // SAFETY: these rows belong to this task, and the slice is not used after the products.
        let own = unsafe { out.slice(first * channels, count * channels) };
        let x = x.map_or(&*own, |x| &x[first * channels..(first + count) * channels]);
        let a = match (norm, norm_operands) {
            (Some(eps), Some((weight, bias))) => {
                rows::normalize_rows(isa, channels, x, weight, bias, eps, normed);
                &*normed
            }
            _ => x,
        };
        for start in (0..hidden).step_by(depth) {
            let width = depth.min(hidden - start);
            for column in (0..width).step_by(chunk) {
                let columns = chunk.min(width - column);
                let part = start + column..start + column + columns;
                let bias = &bias1[start..start + width];
                tile(isa, count, a, channels, weight1.view(), part, product, columns, false);
                let region = Region { row: 0, rows: count, column, columns, n: width };
                let operands = EpilogueOperands { bias: Some(bias), scale: None, norm: None, residual: Residual::None };
                // SAFETY: `middle` is this task's own.
                unsafe {
                    epilogue::apply(isa, &first_epilogue, &operands, region, product, columns, &Disjoint::new(middle));
                }
            }
            let view = weight2.view().depth(start..start + width);
            tile(isa, count, middle, width, view, 0..channels, sums, channels, start > 0);
        }
        let region = Region { row: first, rows: count, column: 0, columns: channels, n: channels };
        // SAFETY: these rows belong to this task.
        unsafe { epilogue::apply(isa, &epilogue, &epilogue_operands, region, sums, channels, &out) };
    });
}

/// Rows of a task: tasks that the threads can share evenly.
fn row_tile(rows: usize, threads: usize) -> usize {
    let tasks = rows.div_ceil(ROWS);
    let tasks = if tasks >= 4 * threads { tasks } else { tasks.next_multiple_of(threads) };
    rows.div_ceil(tasks).next_multiple_of(16).min(rows.max(1))
}
