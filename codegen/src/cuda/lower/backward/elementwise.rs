//! Gradients of elementwise operators, and stochastic depth.

use super::super::{Lowering, act as act_name, vector_width};
use super::sums::{RowSums, add_parts, put_parts};
use super::{THREADS, begin, integer, launch, result};
use crate::cuda::kernel::{Argument, KernelText};
use crate::ir::Slot;
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::stochastic_depth::StochasticDepthSpec;

const HEADER: &str = "elementwise/backward.cuh";
const BYTES: &str = "elementwise::BACKWARD_THREADS - 256";

/// Parameter `length`, and blocks of threads that take `width` numbers each.
fn length(text: &mut KernelText, len: usize, width: usize) -> usize {
    integer(text, "length", len);
    (len / width).div_ceil(THREADS)
}

/// One launch.
pub(super) fn act(l: &mut Lowering<'_>, spec: &ElementwiseSpec) {
    let ElementwiseOp::Act(act) = spec.op else { unreachable!("an activation's gradient") };
    let width = vector_width(l.precision.dtype(), &[spec.len()]);
    let mut text = begin(l, "act_backward", HEADER);
    text.block(THREADS, 0, BYTES);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    result(l, &mut text);
    let blocks = length(&mut text, spec.len(), width);
    text.line(format!("elementwise::act_backward<E, {}, {width}>(x, d_out, residual, d_x, length);", act_name(act)));
    launch(l, &text, [blocks, 1, 1]);
}

/// One launch.
pub(super) fn repeat(l: &mut Lowering<'_>, len: usize, other_len: usize) {
    let width = vector_width(l.precision.dtype(), &[other_len]);
    let mut text = begin(l, "sum_repeats", HEADER);
    text.block(THREADS, 0, BYTES);
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    result(l, &mut text);
    let blocks = length(&mut text, other_len, width);
    integer(&mut text, "repeats", len / other_len);
    text.line(format!("elementwise::sum_repeats<E, {width}>(d_out, residual, d_x, length, repeats);"));
    launch(l, &text, [blocks, 1, 1]);
}

/// One launch.
pub(super) fn parameter(l: &mut Lowering<'_>, len: usize) {
    let mut text = begin(l, "parameter_gradient", HEADER);
    text.block(THREADS, 0, BYTES);
    text.parameter("const E *d", l.element(Slot::Gradient));
    text.parameter("float *sum", l.gradient(Slot::Weight));
    let blocks = length(&mut text, len, 1);
    text.line("if (sum != nullptr) elementwise::add_to_parameter(d, sum, length);");
    launch(l, &text, [blocks, 1, 1]);
}

/// A launch for sums of parts; returns them with how they are cut.
fn products(l: &mut Lowering<'_>, groups: usize, rows: usize, channels: usize) -> (Argument, RowSums) {
    let sums = RowSums::new(l, rows, channels);
    let partial = sums.partial(l, 1, groups);
    let mut text = begin(l, "factor_backward", HEADER);
    sums.block(&mut text, 1);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    sums.parameters(&mut text, partial, rows);
    text.line(format!("const elementwise::Products<E, {channels}, {}> of{{x, d_out}};", sums.width));
    sums.line(&mut text);
    launch(l, &text, sums.grid(groups));
    (partial, sums)
}

/// Two launches.
pub(super) fn scale(l: &mut Lowering<'_>, spec: &ElementwiseSpec) {
    let (partial, sums) = products(l, 1, spec.rows, spec.channels);
    let target = l.gradient(Slot::Scale);
    add_parts(l, partial, target, sums.parts, spec.channels);
}

/// Two launches.
pub(super) fn gate(l: &mut Lowering<'_>, spec: &ElementwiseSpec) {
    let ElementwiseOp::Gate { rows_per_gate } = spec.op else { unreachable!("a gate's gradient") };
    let groups = spec.rows / rows_per_gate;
    let (partial, sums) = products(l, groups, rows_per_gate, spec.channels);
    let (residual, out) = (l.f32(Slot::Residual), l.output(0));
    put_parts(l, partial, residual, out, [sums.parts, spec.channels, groups]);
}

/// One launch, forward and backward alike.
pub(in crate::cuda::lower) fn stochastic_depth(l: &mut Lowering<'_>, spec: &StochasticDepthSpec) {
    let StochasticDepthSpec { batch, len, probability, place } = *spec;
    let width = vector_width(l.precision.dtype(), &[len]);
    let mut text = begin(l, "stochastic_depth", HEADER);
    text.block(THREADS, 0, BYTES);
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("E *out", l.output(0));
    let blocks = length(&mut text, len, width);
    text.parameter("float probability", Argument::F32(probability));
    integer(&mut text, "place", place as usize);
    text.parameter("const StepData *step", Argument::Step);
    text.line(format!("elementwise::stochastic_depth<E, {width}>(x, out, length, probability, place, step);"));
    launch(l, &text, [blocks, batch, 1]);
}
