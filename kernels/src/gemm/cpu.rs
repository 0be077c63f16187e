//! The CPU twin.
//!
//! A task is a tile of rows, or with few rows a tile of columns too. It prepares its rows (norm or gate) in scratch once,
//! then goes through the columns in chunks: product into an f32 tile that stays in the first-level cache, epilogue from
//! there to the output.

use super::{GemmOperands, GemmSpec, PANEL, Prologue, PrologueOperands, tile};
use crate::context::{Disjoint, scratch_bytes};
use crate::epilogue::{self, Region};
use crate::{Context, Element, Isa, rows};

/// Rows of a task: enough that a weight, read once per task, is used often; few enough that they stay in the cache.
const ROWS: usize = 128;

/// Columns of a task at least: splitting finer would only multiply the prologue.
const MIN_COLUMNS: usize = 8 * PANEL;

/// Values of the f32 tile between product and epilogue: 32 KiB.
const CHUNK: usize = 8192;

/// Computes [`GemmSpec`].
///
/// # Panics
/// If an operand has not the size that the spec says, or is missing.
pub fn gemm<T: Element>(ctx: &mut Context, spec: &GemmSpec, operands: GemmOperands<'_, T>) {
    let GemmSpec { rows, n, k, prologue, epilogue } = *spec;
    let GemmOperands { x, prologue: factors, weight, epilogue: epilogue_operands, out } = operands;
    assert!(x.len() == rows * k, "x holds {} elements, expected [{rows}, {k}]", x.len());
    assert!(out.len() == rows * n, "out holds {} elements, expected [{rows}, {n}]", out.len());
    assert!(weight.n() == n && weight.k() == k, "weight is [{}, {}], expected [{n}, {k}]", weight.n(), weight.k());
    if rows == 0 || n == 0 {
        return;
    }
    let isa = ctx.isa();
    let whole_rows = epilogue.norm.is_some();
    let (row_tile, column_tile) = split(rows, n, ctx.threads(), whole_rows);
    let row_tasks = rows.div_ceil(row_tile);
    let column_tasks = n.div_ceil(column_tile);
    let chunk = if whole_rows { n } else { (CHUNK / row_tile / PANEL * PANEL).max(2 * PANEL).min(column_tile) };
    let prepared = if prologue == Prologue::None { 0 } else { row_tile * k };
    let scratch = scratch_bytes::<f32>(row_tile * chunk) + scratch_bytes::<T>(prepared);
    let out = Disjoint::new(out);
    ctx.parallel(row_tasks * column_tasks, scratch, |task, mut scratch| {
        let first = task / column_tasks * row_tile;
        let count = row_tile.min(rows - first);
        let columns = task % column_tasks * column_tile;
        let columns = columns..(columns + column_tile).min(n);
        let c = scratch.take::<f32>(row_tile * chunk);
        let prepared = scratch.take::<T>(prepared);
        let x = &x[first * k..(first + count) * k];
        let a = if prologue == Prologue::None {
            x
        } else {
            prepare(isa, prologue, factors, first, k, x, prepared);
            prepared
        };
        for start in columns.clone().step_by(chunk) {
            let part = start..(start + chunk).min(columns.end);
            let region = Region { row: first, rows: count, column: part.start, columns: part.len(), n };
            let stride = part.len();
            tile(isa, count, a, k, weight.view(), part, c, stride, false);
            // SAFETY: no other task has these rows and columns.
            unsafe { epilogue::apply(isa, &epilogue, &epilogue_operands, region, c, stride, &out) };
        }
    });
}

/// Rows and columns of a task. Columns are only cut when there are too few row tiles for the threads.
fn split(rows: usize, n: usize, threads: usize, whole_rows: bool) -> (usize, usize) {
    let row_tasks = rows.div_ceil(ROWS);
    if threads == 1 {
        return (ROWS.min(rows), n);
    }
    // A number of tasks that the threads can share evenly, whether or not each gets several.
    let wanted = if row_tasks >= 4 * threads { row_tasks } else { row_tasks.next_multiple_of(threads) };
    if whole_rows || row_tasks >= wanted {
        let row_tile = rows.div_ceil(wanted).next_multiple_of(16);
        return (row_tile.min(rows), n);
    }
    let per_row_tile = wanted.div_ceil(row_tasks);
    let column_tile = n.div_ceil(per_row_tile).next_multiple_of(PANEL).max(MIN_COLUMNS).min(n.next_multiple_of(PANEL));
    (ROWS.min(rows), column_tile)
}

/// Rows `first..` of x through the prologue.
fn prepare<T: Element>(
    isa: Isa,
    prologue: Prologue,
    factors: PrologueOperands<'_>,
    first: usize,
    k: usize,
    x: &[T],
    out: &mut [T],
) {
    match (prologue, factors) {
        (Prologue::None, PrologueOperands::None) => {}
        (Prologue::LayerNorm { eps }, PrologueOperands::LayerNorm(weight, bias)) => {
            rows::normalize_rows(isa, k, x, weight, bias, eps, out);
        }
        (Prologue::Gate { rows_per_gate }, PrologueOperands::Gate(gates)) => {
            for (row, (x, out)) in x.chunks_exact(k).zip(out.chunks_exact_mut(k)).enumerate() {
                let image = (first + row) / rows_per_gate;
                rows::scale_row(isa, x, &gates[image * k..(image + 1) * k], out);
            }
        }
        (prologue, factors) => panic!("prologue {prologue:?} got operands {factors:?}"),
    }
}
