//! Gradients of dense and depthwise convolutions.

use super::super::gemm::{EpilogueArguments, Product};
use super::super::{Lowering, vector_width};
use super::products::{WeightKernel, weight_gradient};
use super::sums::{RowSums, add_parts, bias};
use super::{THREADS, begin, integer, launch, launch_beside, result};
use crate::cuda::kernel::{Argument, KernelText};
use crate::cuda::program::{Form, PhaseOf};
use crate::ir::Slot;
use segface_kernels::Epilogue;
use segface_kernels::conv::ConvSpec;
use segface_kernels::depthwise::DepthwiseSpec;

/// Parameters of the maps' sizes, for `{height, width, out_height, out_width}`.
fn sizes(text: &mut KernelText, input: [usize; 2], output: [usize; 2]) {
    for (name, size) in ["height", "width", "out_height", "out_width"].into_iter().zip([input, output].concat()) {
        integer(text, name, size);
    }
}

/// A launch for each remainder of the pixels that some tap reaches, and one for zeros where there are others.
pub(super) fn input(l: &mut Lowering<'_>, spec: &ConvSpec) {
    let ConvSpec { batch, input, channels, out_channels, kernel, stride, padding, .. } = *spec;
    let residual = l.element(Slot::Residual);
    let phases: Vec<PhaseOf> = (0..stride * stride)
        .map(|i| PhaseOf { channels, out_channels, kernel, stride, padding, at: [i / stride, i % stride] })
        .filter(|phase| phase.at[0] < input[0] && phase.at[1] < input[1])
        .collect();
    if residual == Argument::Null && phases.iter().any(|phase| phase.taps() == 0) {
        let len = batch * input[0] * input[1] * channels;
        let mut text = begin(l, "clear", "elementwise/backward.cuh");
        text.block(THREADS, 0, "elementwise::BACKWARD_THREADS - 256");
        text.parameter("E *out", l.output(0));
        integer(&mut text, "length", len);
        text.line("elementwise::clear(out, length);");
        launch_beside(l, &text, [len.div_ceil(THREADS), 1, 1]);
    }
    let own = l.output(0);
    if residual != Argument::Null && phases.iter().any(|phase| phase.taps() == 0) {
        // Pixels that no tap reaches keep the share; where it lies elsewhere, all of it is brought over first.
        let len = batch * input[0] * input[1] * channels;
        let mut text = begin(l, "copy", "elementwise/backward.cuh");
        text.block(THREADS, 0, "elementwise::BACKWARD_THREADS - 256");
        text.parameter("const E *x", residual);
        text.parameter("E *out", own);
        integer(&mut text, "length", len);
        text.line("elementwise::copy(x, out, length);");
        launch_beside(l, &text, [len.div_ceil(THREADS), 1, 1]);
    }
    for phase in phases.iter().filter(|phase| phase.taps() > 0) {
        let [rows, columns] = [0, 1].map(|side| (input[side] - phase.at[side]).div_ceil(stride));
        let (rows, depth) = (batch * rows * columns, phase.taps() * out_channels);
        let d_out = l.element(Slot::Gradient);
        let weight = l.constant(Slot::Weight, Form::Phase(*phase));
        let epilogue = Epilogue { residual: residual != Argument::Null, ..Epilogue::default() };
        let plan = Product::new(l, &format!("Phase{kernel}/{stride}"), &epilogue, [rows, channels, depth]);
        let mut text = KernelText::new("conv_input", "conv/backward.cuh");
        text.include(plan.header);
        plan.define(&mut text, l, &epilogue);
        text.define(format!("using Source = {};", phase.template("conv::Phase", "S, ")));
        text.parameter("const E *d_out", d_out);
        text.parameter("const u8 *weight", weight);
        text.parameter("E *d_x", own);
        integer(&mut text, "rows", rows);
        sizes(&mut text, input, spec.output());
        text.line("Source source;");
        text.line("source.d_out = d_out;");
        text.line("source.map = {height, width, out_height, out_width};");
        let nothing = Argument::Null;
        let operands = EpilogueArguments { bias: nothing, scale: nothing, norm: [nothing; 2], residual };
        operands.write(&mut text, &epilogue);
        text.line(format!("conv::input<S, {channels}>(source, weight, epilogue, d_x, rows);"));
        let grid = plan.tile.grid(rows, channels);
        let share = 1.0 / phases.len() as f64;
        let bytes = (l.node().bytes(l.graph) as f64 * share) as u64;
        l.launch(&text, grid, (2 * rows * depth * channels) as u64, bytes);
        plan.detail(l, &epilogue, 1);
        l.detail(|detail| detail.tensor = true);
    }
}

/// As a product's.
pub(super) fn weight(l: &mut Lowering<'_>, spec: &ConvSpec) {
    let ConvSpec { input, channels, out_channels, kernel, stride, padding, .. } = *spec;
    let x = l.element(Slot::X);
    let source = format!("conv::WindowColumns<{channels}, {kernel}, {stride}, {padding}>");
    let initial = "{x, {height, width, out_height, out_width}}".into();
    let kernel = WeightKernel { room: "conv_weight", header: "conv/backward.cuh", source, initial };
    weight_gradient(l, &kernel, [spec.rows(), out_channels, spec.depth()], |text| {
        text.parameter("const float *x", x);
        sizes(text, input, spec.output());
    });
}

/// One launch.
pub(super) fn depthwise_input(l: &mut Lowering<'_>, spec: &DepthwiseSpec) {
    let DepthwiseSpec { batch, input, channels, kernel, stride, .. } = *spec;
    let width = vector_width(l.precision.dtype(), &[channels]);
    let mut text = begin(l, "depthwise_input", "depthwise/backward.cuh");
    text.block(THREADS, 0, "depthwise::BACKWARD_THREADS - 256");
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    text.parameter("const float *weight", l.f32(Slot::Weight));
    result(l, &mut text);
    sizes(&mut text, input, spec.output());
    text.line(format!(
        "depthwise::input<E, {channels}, {kernel}, {stride}, {width}>(d_out, weight, residual, d_x, {{height, width, out_height, \
         out_width}});"
    ));
    launch(l, &text, [(input[1] * channels / width).div_ceil(THREADS), input[0], batch]);
}

/// Two launches and one for each line of taps, two more for a bias.
pub(super) fn depthwise_weight(l: &mut Lowering<'_>, spec: &DepthwiseSpec) {
    let DepthwiseSpec { batch, input, channels, kernel, stride, .. } = *spec;
    let rows = batch * spec.output().iter().product::<usize>();
    let sums = RowSums::new(l, rows, channels);
    let partial = sums.partial(l, kernel, kernel);
    let (x, d_out) = (l.element(Slot::X), l.element(Slot::Gradient));
    let mut text = begin(l, "depthwise_weight", "depthwise/backward.cuh");
    sums.block(&mut text, kernel);
    text.parameter("const E *x", x);
    text.parameter("const E *d_out", d_out);
    sums.parameters(&mut text, partial, rows);
    sizes(&mut text, input, spec.output());
    text.line(format!(
        "depthwise::weight<E, {channels}, {kernel}, {stride}, {}, {}, {}>(x, d_out, partial, {{height, width, out_height, \
         out_width}}, rows, part_rows);",
        sums.width, sums.lanes, sums.rows
    ));
    launch(l, &text, sums.grid(kernel));
    let target = l.gradient(Slot::Weight);
    add_groups(l, partial, target, [sums.parts, kernel * channels, kernel]);
    let target = l.gradient(Slot::Bias);
    bias(l, d_out, target, rows, channels);
}

/// [`add_parts`] for several groups, one behind the other.
fn add_groups(l: &mut Lowering<'_>, partial: Argument, target: Argument, [parts, length, groups]: [usize; 3]) {
    if groups == 1 {
        return add_parts(l, partial, target, parts, length);
    }
    let mut text = KernelText::new("add_parts", "cuda/backward.cuh");
    text.block(THREADS, 0, "PARTS_THREADS - 256");
    text.parameter("const float *partial", partial);
    text.parameter("float *target", target);
    integer(&mut text, "parts", parts);
    integer(&mut text, "length", length);
    text.line("if (target != nullptr) add_parts<true>(partial, target, parts, length);");
    launch_beside(l, &text, [length.div_ceil(THREADS), groups, 1]);
}
