//! Sums over rows, in parts that are cut by shape alone (`cuda/backward.cuh`).

use super::super::depthwise::{Lanes, lanes};
use super::super::{Lowering, vector_width};
use super::{THREADS, begin, integer, launch_beside};
use crate::cuda::kernel::{Argument, KernelText};

/// Rows that a thread adds up, if parts do not become too many.
const ROWS_OF_A_THREAD: usize = 32;
/// Parts at most: they are added up one after another.
const MOST_PARTS: usize = 512;

/// How sums over `rows` rows of `channels` channels are cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSums {
    pub(super) channels: usize,
    pub(super) width: usize,
    pub(super) lanes: usize,
    /// Rows of a block's threads.
    pub(super) rows: usize,
    pub(super) part_rows: usize,
    pub(super) parts: usize,
}

impl RowSums {
    pub(super) fn new(l: &Lowering<'_>, rows: usize, channels: usize) -> Self {
        let width = vector_width(l.precision.dtype(), &[channels]);
        let Lanes { lanes, rows: lines } = lanes(channels / width, THREADS);
        let part_rows = (ROWS_OF_A_THREAD * lines).max(rows.div_ceil(MOST_PARTS).next_multiple_of(lines));
        Self { channels, width, lanes, rows: lines, part_rows, parts: rows.div_ceil(part_rows) }
    }

    /// Threads of a block.
    pub(super) fn threads(&self) -> usize {
        self.lanes * self.rows
    }

    /// The grid, for `groups` groups of rows.
    pub(super) fn grid(&self, groups: usize) -> [usize; 3] {
        [self.channels / self.width / self.lanes, self.parts, groups]
    }

    /// Working memory for `quantities` sums a channel in each of `groups` groups.
    pub(super) fn partial(&self, l: &mut Lowering<'_>, quantities: usize, groups: usize) -> Argument {
        l.workspace(groups * self.parts * quantities * self.channels * size_of::<f32>())
    }

    /// The block of a kernel with `quantities` sums a channel.
    pub(super) fn block(&self, text: &mut KernelText, quantities: usize) {
        let (threads, width) = (self.threads(), self.width);
        let bytes = format!("row_sums_bytes({threads}, {width}, {quantities})");
        text.block(threads, threads * width * quantities * size_of::<f32>(), &bytes);
    }

    /// `this thread's first channel`, for operators that load what belongs to it once.
    pub(super) fn channel(&self) -> String {
        format!("(int(blockIdx.x) * {0} + int(threadIdx.x) % {0}) * {1}", self.lanes, self.width)
    }

    /// The line that makes the sums by `of`.
    pub(super) fn line(&self, text: &mut KernelText) {
        let Self { channels, width, lanes, rows, .. } = self;
        text.line(format!("sum_rows<{lanes}, {rows}, {channels}, {width}>(of, partial, rows, part_rows);"));
    }

    /// The sums' parameters.
    pub(super) fn parameters(&self, text: &mut KernelText, partial: Argument, rows: usize) {
        text.parameter("float *partial", partial);
        integer(text, "rows", rows);
        integer(text, "part_rows", self.part_rows);
    }
}

/// Adds `parts` parts of `length` numbers at `partial` to the gradient `target`, if there is any.
pub(super) fn add_parts(l: &mut Lowering<'_>, partial: Argument, target: Argument, parts: usize, length: usize) {
    if target == Argument::Null {
        return;
    }
    let mut text = KernelText::new("add_parts", "cuda/backward.cuh");
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("float *target", target);
    integer(&mut text, "parts", parts);
    integer(&mut text, "length", length);
    // What is not trained has no place.
    text.line("if (target != nullptr) add_parts<true>(partial, target, parts, length);");
    launch_beside(l, &text, [length.div_ceil(THREADS), 1, 1]);
}

/// Writes the sum of `parts` parts of `length` numbers in each of `groups` groups to the node's result `index`, added to another reader's
/// share where there is one.
pub(super) fn put_parts(
    l: &mut Lowering<'_>,
    partial: Argument,
    residual: Argument,
    out: Argument,
    [parts, length, groups]: [usize; 3],
) {
    let mut text = KernelText::new("put_parts", "elementwise/backward.cuh");
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("const float *residual", residual);
    text.parameter("float *out", out);
    integer(&mut text, "parts", parts);
    integer(&mut text, "length", length);
    text.line("elementwise::finish_gate(partial, residual, out, parts, length);");
    launch_beside(l, &text, [length.div_ceil(THREADS), groups, 1]);
}

/// Adds the sums over all rows of `d_out` [rows, channels] to the gradient of a bias.
pub(super) fn bias(l: &mut Lowering<'_>, d_out: Argument, target: Argument, rows: usize, channels: usize) {
    if target == Argument::Null {
        return;
    }
    let sums = RowSums::new(l, rows, channels);
    let partial = sums.partial(l, 1, 1);
    let mut text = begin(l, "bias_backward", "elementwise/backward.cuh");
    sums.block(&mut text, 1);
    text.parameter("const E *d_out", d_out);
    sums.parameters(&mut text, partial, rows);
    text.line(format!("const elementwise::Columns<E, {channels}, {}> of{{d_out}};", sums.width));
    sums.line(&mut text);
    launch_beside(l, &text, sums.grid(1));
    add_parts(l, partial, target, sums.parts, channels);
}
