//! Gradients of products: of the data by the weight packed the other way round, of the weight in parts of the rows.

use super::super::Lowering;
use super::super::gemm::{EpilogueArguments, Rows, product};
use super::sums::{add_parts, bias};
use super::{integer, launch};
use crate::cuda::kernel::{Argument, KernelText};
use crate::cuda::program::Form;
use crate::ir::Slot;
use segface_kernels::Epilogue;
use segface_kernels::gemm::{GemmSpec, Prologue};

/// Rows of a part at least, and at most where there is one part for each: longer sums of f32 lose what parts in f64 win.
const PART_ROWS: [usize; 2] = [256, 1024];
/// Blocks that a weight's gradient should have.
const BLOCKS: usize = 256;
/// Threads of a block: `WeightShape::THREADS`.
const WEIGHT_THREADS: usize = 256;

/// One launch.
pub(super) fn input(l: &mut Lowering<'_>, spec: &GemmSpec) {
    let x = l.element(Slot::Gradient);
    let weight = l.constant(Slot::Weight, Form::Turned { n: spec.k, k: spec.n });
    let residual = l.element(Slot::Residual);
    let nothing = Argument::Null;
    let epilogue = Epilogue { residual: residual != nothing, ..Epilogue::default() };
    let spec = GemmSpec { rows: spec.rows, n: spec.k, k: spec.n, prologue: Prologue::None, epilogue };
    let epilogue = EpilogueArguments { bias: nothing, scale: nothing, norm: [nothing; 2], residual };
    let (out, flops, bytes) = (l.output(0), l.node().flops(l.graph), l.node().bytes(l.graph));
    product(l, &Rows { spec, x, weight, norm: [nothing; 2], gate: nothing, epilogue, out, flops, bytes });
}

/// Two launches for the weight, two for the bias.
pub(super) fn weight(l: &mut Lowering<'_>, spec: &GemmSpec) {
    let x = l.element(Slot::X);
    let source = format!("gemm::PlainColumns<{}>", spec.k);
    let kernel = WeightKernel { room: "gemm_weight", header: "gemm/backward.cuh", source, initial: "{x}".into() };
    weight_gradient(l, &kernel, [spec.rows, spec.n, spec.k], |text| text.parameter("const float *x", x));
}

/// Where a weight's gradient gets its rows of x from.
pub(super) struct WeightKernel {
    pub(super) room: &'static str,
    pub(super) header: &'static str,
    /// The source's type, and what it is initialised with.
    pub(super) source: String,
    pub(super) initial: String,
}

/// The gradients of weight and bias of a product of [rows, k] by [n, k]; `parameters` are those of the source.
pub(super) fn weight_gradient(
    l: &mut Lowering<'_>,
    kernel: &WeightKernel,
    [rows, n, k]: [usize; 3],
    parameters: impl FnOnce(&mut KernelText),
) {
    let d_out = l.element(Slot::Gradient);
    let target = l.gradient(Slot::Weight);
    if target != Argument::Null {
        let side = |length: usize| if length <= 64 { 64 } else { 128 };
        let (tile_n, tile_k) = (side(n), side(k));
        let tiles = n.div_ceil(tile_n) * k.div_ceil(tile_k);
        // By shape alone: enough blocks to fill a card, but not the last one of them.
        let wanted = BLOCKS.div_ceil(tiles).max(rows.div_ceil(PART_ROWS[1]));
        let parts = wanted.min(rows.div_ceil(PART_ROWS[0])).max(1);
        let part_rows = rows.div_ceil(parts).next_multiple_of(16);
        let parts = rows.div_ceil(part_rows);
        let partial = if parts == 1 { target } else { l.workspace(parts * n * k * size_of::<f32>()) };
        let (step, stages) = (16, if tile_n + tile_k == 256 { 3 } else { 4 });
        let fragment = l.fragment_name();
        let mut text = KernelText::new(kernel.room, kernel.header);
        text.define(format!("using S = gemm::WeightShape<{fragment}, {tile_n}, {tile_k}, {step}, {stages}>;"));
        let bytes = stages * step * (tile_n + tile_k + 16) * size_of::<f32>();
        text.block(WEIGHT_THREADS, bytes, "S::BYTES");
        parameters(&mut text);
        text.parameter("const float *d_out", d_out);
        text.parameter("float *target", partial);
        integer(&mut text, "rows", rows);
        integer(&mut text, "part_rows", part_rows);
        text.line(format!("const {} source{};", kernel.source, kernel.initial));
        text.line(format!("gemm::weight_gradient<S, {n}, {k}>(source, d_out, target, rows, part_rows);"));
        launch(l, &text, [n.div_ceil(tile_n), k.div_ceil(tile_k), parts]);
        let traffic = (k.div_ceil(tile_k) * n + n.div_ceil(tile_n) * k) * rows + parts * n * k;
        l.detail(|detail| {
            (detail.tensor, detail.traffic, detail.steps) =
                (true, (traffic * size_of::<f32>()) as u64, part_rows.div_ceil(step) as u32);
        });
        if parts > 1 {
            add_parts(l, partial, target, parts, n * k);
        }
    }
    let target = l.gradient(Slot::Bias);
    bias(l, d_out, target, rows, n);
}
