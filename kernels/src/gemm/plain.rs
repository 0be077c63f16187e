//! Products by a weight that is used once as it is: a training step's, whose numbers change from step to step.
//!
//! A task is a tile of rows by a tile of columns. It packs its columns of the weight piece by piece in scratch, in either
//! direction, multiplies all its rows by the piece while that is in the cache, and keeps the sums. So a weight is read from
//! memory once per tile of rows, which are many, and its packed form never gets there.

use super::{GemmSpec, PANEL, Prologue, pack_columns_f32, pack_rows_f32, packed_len, tile};
use crate::act::with_act;
use crate::context::{Disjoint, scratch_bytes};
use crate::epilogue::{self, EpilogueOperands, Region};
use crate::rows::{load, store};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Act, Context, Element, Isa};

/// Rows of a task at most: packing a weight costs about as much as eight of them.
const ROWS: usize = 512;

/// Columns of a task at most: its sums, 256 KiB, stay in the second-level cache.
const COLUMNS: usize = 128;

/// Columns of a task at least, where tasks are few.
const MIN_COLUMNS: usize = 4 * PANEL;

/// Depth of a piece of the weight.
const DEPTH: usize = 512;

/// Tasks per thread that there should be.
const TASKS: usize = 4;

/// A weight as it is stored, row-major.
#[derive(Debug, Clone, Copy)]
pub enum PlainWeight<'a> {
    /// [n, k]: as published.
    Rows(&'a [f32]),
    /// [k, n]: a product's data gradient multiplies by the weight this way round.
    Columns(&'a [f32]),
}

/// Operands of [`gemm_plain`].
pub struct PlainOperands<'a, T: Element> {
    /// [rows, k]
    pub x: &'a [T],
    /// Rounded to T on the way.
    pub weight: PlainWeight<'a>,
    /// What the epilogue asks for.
    pub epilogue: EpilogueOperands<'a, T>,
    /// An activation: before the epilogue the product is multiplied by its slope.
    pub slope: Option<(Act, SlopeAt<'a, T>)>,
    /// [rows, n]
    pub out: &'a mut [T],
}

/// Where an activation's operand [rows, n] is.
#[derive(Debug, Clone, Copy)]
pub enum SlopeAt<'a, T> {
    /// The output buffer holds it: read and overwritten element by element.
    InPlace,
    /// Another buffer.
    From(&'a [T]),
}

/// Computes [`GemmSpec`] without prologue and without norm.
///
/// # Panics
/// If an operand has not the size that the spec says, or is missing, or the spec asks for a prologue or a norm.
pub fn gemm_plain<T: Element>(ctx: &mut Context, spec: &GemmSpec, operands: PlainOperands<'_, T>) {
    let GemmSpec { rows, n, k, prologue, epilogue } = *spec;
    let PlainOperands { x, weight, epilogue: epilogue_operands, slope, out } = operands;
    assert!(x.len() == rows * k, "x holds {} elements, expected [{rows}, {k}]", x.len());
    assert!(out.len() == rows * n, "out holds {} elements, expected [{rows}, {n}]", out.len());
    let (PlainWeight::Rows(values) | PlainWeight::Columns(values)) = weight;
    assert!(values.len() == n * k, "the weight holds {} values, expected {n} by {k}", values.len());
    if let Some((_, SlopeAt::From(at))) = slope {
        assert!(at.len() == rows * n, "the activation's operand is no [{rows}, {n}]");
    }
    assert!(prologue == Prologue::None && epilogue.norm.is_none(), "a product of plain weights has no norm");
    if rows == 0 || n == 0 {
        return;
    }
    let isa = ctx.isa();
    let row_tasks = rows.div_ceil(ROWS);
    let row_tile = rows.div_ceil(row_tasks).next_multiple_of(PANEL).min(rows);
    let row_tasks = rows.div_ceil(row_tile);
    let few = row_tasks * n.div_ceil(COLUMNS) < TASKS * ctx.threads();
    let column_tile = if few { MIN_COLUMNS } else { COLUMNS }.min(n.next_multiple_of(PANEL));
    let column_tasks = n.div_ceil(column_tile);
    let packed_len = packed_len::<T>(column_tile, DEPTH.min(k));
    let scratch = scratch_bytes::<f32>(row_tile * column_tile) + scratch_bytes::<T>(packed_len);
    let out = Disjoint::new(out);
    ctx.parallel(row_tasks * column_tasks, scratch, |task, mut scratch| {
        let (row, column) = (task / column_tasks * row_tile, task % column_tasks * column_tile);
        let (count, columns) = (row_tile.min(rows - row), column_tile.min(n - column));
        let sums = &mut scratch.take::<f32>(row_tile * column_tile)[..count * columns];
        let packed = scratch.take::<T>(packed_len);
        if k == 0 {
            sums.fill(0.0);
        }
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let b = match weight {
                PlainWeight::Rows(values) => {
                    pack_rows_f32::<T>(isa, columns, depth, &values[column * k + start..], k, packed)
                }
                PlainWeight::Columns(values) => {
                    pack_columns_f32::<T>(isa, columns, depth, &values[start * n + column..], n, packed)
                }
            };
            tile(isa, count, &x[row * k + start..], k, b, 0..columns, sums, columns, start > 0);
        }
        if let Some((act, at)) = slope {
            let at = |i: usize| {
                let start = (row + i) * n + column;
                match at {
                    // SAFETY: no other task has these rows and columns, and the slice ends here.
                    SlopeAt::InPlace => unsafe { out.slice(start, columns) }.as_ptr(),
                    SlopeAt::From(at) => at[start..start + columns].as_ptr(),
                }
            };
            // SAFETY: each row holds as many values as there are columns; nobody else uses them meanwhile.
            unsafe { multiply_by_slope(isa, act, at, sums, columns) };
        }
        let region = Region { row, rows: count, column, columns, n };
        // SAFETY: no other task has these rows and columns.
        unsafe { epilogue::apply(isa, &epilogue, &epilogue_operands, region, sums, columns, &out) };
    });
}

/// `sums[i, j] *= act′(at(i)[j])`, rows of `columns` side by side.
///
/// # Safety
/// `at(i)` is good for reading `columns` values, for every row.
unsafe fn multiply_by_slope<T: Element>(
    isa: Isa,
    act: Act,
    at: impl Fn(usize) -> *const T,
    sums: &mut [f32],
    columns: usize,
) {
    dispatch(isa, Slope { act, at, sums, columns });
}

struct Slope<'a, F> {
    act: Act,
    /// Where a row of the activation's operand begins.
    at: F,
    sums: &'a mut [f32],
    columns: usize,
}

impl<T: Element, F: Fn(usize) -> *const T> Kernel for Slope<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        with_act!(self.act, ACT => self.all::<V, T>(ACT))
    }
}

impl<F> Slope<'_, F> {
    #[inline(always)]
    fn all<V: Vector, T: Element>(self, act: Act)
    where
        F: Fn(usize) -> *const T,
    {
        let Self { at, sums, columns, .. } = self;
        for (row, sums) in sums.chunks_exact_mut(columns).enumerate() {
            let (at, sums) = (at(row), sums.as_mut_ptr());
            let mut i = 0;
            while i < columns {
                let count = V::LANES.min(columns - i);
                // SAFETY: both have that many columns (`multiply_by_slope`).
                unsafe {
                    let slope = act.derivative::<V>(load(at.add(i), count));
                    store(load::<V, f32>(sums.add(i), count).mul(slope), sums.add(i), count);
                }
                i += count;
            }
        }
    }
}
