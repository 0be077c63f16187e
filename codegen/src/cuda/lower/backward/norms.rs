//! Batch norm in training, forward and backward; gradients of the layer norm.

use super::super::{Lowering, act, literal};
use super::sums::RowSums;
use super::{THREADS, begin, integer, launch, launch_beside, result};
use crate::cuda::kernel::{Argument, KernelText};
use crate::ir::Slot;
use segface_kernels::batch_norm::BatchNormSpec;
use segface_kernels::layer_norm::LayerNormSpec;

const HEADER: &str = "batch_norm/backward.cuh";

/// Threads of a block that goes through all numbers, and its blocks.
fn map(text: &mut KernelText, spec: &BatchNormSpec, width: usize) -> [usize; 3] {
    text.block(THREADS, 0, "batch_norm::NORM_THREADS - 256");
    integer(text, "rows", spec.rows);
    [(spec.rows * (spec.channels / width)).div_ceil(THREADS), 1, 1]
}

/// Three launches: moments of parts, their merging, the result.
pub(in crate::cuda::lower) fn batch_norm(l: &mut Lowering<'_>, spec: &BatchNormSpec) {
    let BatchNormSpec { rows, channels, eps, momentum, act: name } = *spec;
    let sums = RowSums::new(l, rows, channels);
    let (width, partial) = (sums.width, sums.partial(l, 2, 1));
    let mut text = begin(l, "batch_norm_moments", HEADER);
    sums.block(&mut text, 2);
    text.parameter("const E *x", l.element(Slot::X));
    sums.parameters(&mut text, partial, rows);
    text.line(format!(
        "batch_norm::moments<E, {channels}, {width}, {}, {}>(x, partial, rows, part_rows);",
        sums.lanes, sums.rows
    ));
    launch_beside(l, &text, sums.grid(1));

    let mut text = KernelText::new("batch_norm_merge", HEADER);
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("float *mean", l.output(1));
    text.parameter("float *scale", l.output(2));
    // Statistics are written where they lie.
    text.parameter("float *running_mean", l.f32(Slot::Mean));
    text.parameter("float *running_variance", l.f32(Slot::Variance));
    integer(&mut text, "rows", rows);
    integer(&mut text, "part_rows", sums.part_rows);
    text.line(format!(
        "batch_norm::merge<{channels}>(partial, mean, scale, running_mean, running_variance, rows, part_rows, {}, {});",
        literal(eps),
        literal(momentum)
    ));
    launch_beside(l, &text, [channels.div_ceil(THREADS), 1, 1]);

    let mut text = begin(l, "batch_norm", HEADER);
    let grid = map(&mut text, spec, width);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const float *weight", l.f32(Slot::NormWeight));
    text.parameter("const float *bias", l.f32(Slot::NormBias));
    text.parameter("const float *mean", l.output(1));
    text.parameter("const float *scale", l.output(2));
    text.parameter("E *out", l.output(0));
    text.line(format!(
        "batch_norm::normalise<E, {channels}, {width}, {}>(x, weight, bias, mean, scale, out, rows);",
        act(name)
    ));
    launch(l, &text, grid);
}

/// Parameters of what the forward pass had and left.
fn operands(l: &mut Lowering<'_>, text: &mut KernelText) {
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    let slots = [("weight", Slot::NormWeight), ("bias", Slot::NormBias), ("mean", Slot::Mean), ("scale", Slot::Scale)];
    for (name, slot) in slots {
        text.parameter(format!("const float *{name}"), l.f32(slot));
    }
}

/// Three launches: sums of parts, their sum, the gradient of the data.
pub(super) fn batch_norm_backward(l: &mut Lowering<'_>, spec: &BatchNormSpec) {
    let BatchNormSpec { rows, channels, act: name, .. } = *spec;
    let sums = RowSums::new(l, rows, channels);
    let (width, partial) = (sums.width, sums.partial(l, 2, 1));
    let means = l.workspace(2 * channels * size_of::<f32>());
    let mut text = begin(l, "batch_norm_sums", HEADER);
    sums.block(&mut text, 2);
    operands(l, &mut text);
    sums.parameters(&mut text, partial, rows);
    text.line(format!(
        "const batch_norm::Sums<E, {channels}, {width}, {}> of{{x, d_out, {{weight, bias, mean, scale, {}}}}};",
        act(name),
        sums.channel()
    ));
    sums.line(&mut text);
    launch_beside(l, &text, sums.grid(1));

    let mut text = KernelText::new("batch_norm_finish", HEADER);
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("const float *scale", l.f32(Slot::Scale));
    text.parameter("float *d_weight", l.gradient(Slot::NormWeight));
    text.parameter("float *d_bias", l.gradient(Slot::NormBias));
    text.parameter("float *means", means);
    integer(&mut text, "parts", sums.parts);
    integer(&mut text, "rows", rows);
    text.line(format!("batch_norm::finish_sums<{channels}>(partial, scale, d_weight, d_bias, means, parts, rows);"));
    launch_beside(l, &text, [channels.div_ceil(THREADS), 1, 1]);

    let mut text = begin(l, "batch_norm_backward", HEADER);
    let grid = map(&mut text, spec, width);
    operands(l, &mut text);
    text.parameter("const float *means", means);
    result(l, &mut text);
    text.line(format!(
        "batch_norm::input<E, {channels}, {width}, {}>(x, d_out, weight, bias, mean, scale, means, residual, d_x, rows);",
        act(name)
    ));
    launch(l, &text, grid);
}

/// Threads of a block: `layer_norm::WARPS`.
const WARPS: usize = 4;

/// Three launches: the gradient of the data with the rows' statistics, sums of parts, their sum.
pub(super) fn layer_norm_backward(l: &mut Lowering<'_>, spec: &LayerNormSpec) {
    let LayerNormSpec { rows, channels, eps } = *spec;
    let header = "layer_norm/backward.cuh";
    let lanes = match channels * l.precision.dtype().size() / 16 {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    };
    let statistics = l.workspace(2 * rows * size_of::<f32>());
    let mut text = begin(l, "layer_norm_backward", header);
    text.block(WARPS * 32, 0, "layer_norm::WARPS - 4");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const float *weight", l.f32(Slot::NormWeight));
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    result(l, &mut text);
    text.parameter("float *statistics", statistics);
    integer(&mut text, "rows", rows);
    text.line(format!(
        "layer_norm::rows_backward<E, {channels}>(x, weight, d_out, {}, residual, d_x, statistics, rows);",
        literal(eps)
    ));
    let (x, d_out) = (l.element(Slot::X), l.element(Slot::Gradient));
    let (d_weight, d_bias) = (l.gradient(Slot::NormWeight), l.gradient(Slot::NormBias));

    let sums = RowSums::new(l, rows, channels);
    let partial = sums.partial(l, 2, 1);
    let mut of_rows = begin(l, "layer_norm_sums", header);
    sums.block(&mut of_rows, 2);
    of_rows.parameter("const E *x", x);
    of_rows.parameter("const E *d_out", d_out);
    of_rows.parameter("const float *statistics", statistics);
    sums.parameters(&mut of_rows, partial, rows);
    of_rows.line(format!("const layer_norm::Sums<E, {channels}, {}> of{{x, d_out, statistics}};", sums.width));
    sums.line(&mut of_rows);

    launch(l, &text, [rows.div_ceil(WARPS * 32 / lanes), 1, 1]);
    if [d_weight, d_bias] == [Argument::Null; 2] {
        return;
    }
    launch_beside(l, &of_rows, sums.grid(1));
    let mut text = KernelText::new("layer_norm_finish", header);
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("float *d_weight", d_weight);
    text.parameter("float *d_bias", d_bias);
    integer(&mut text, "parts", sums.parts);
    text.line(format!("layer_norm::finish_sums<{channels}>(partial, d_weight, d_bias, parts);"));
    launch_beside(l, &text, [channels.div_ceil(THREADS), 1, 1]);
}
