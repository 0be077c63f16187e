//! Dense convolutions: a product whose rows are gathered from windows.

use super::super::kernel::{Argument, KernelText};
use super::Lowering;
use super::gemm::{EpilogueArguments, Product};
use crate::ir::Slot;
use segface_kernels::conv::ConvSpec;

/// One launch.
pub(super) fn conv(l: &mut Lowering<'_>, spec: &ConvSpec) {
    let ConvSpec { input, channels, out_channels: n, kernel, stride, padding, ref epilogue, .. } = *spec;
    let rows = spec.rows();
    let x = l.element(Slot::X);
    let weight = l.packed(Slot::Weight, n, spec.depth());
    let operands = EpilogueArguments::of(l, Slot::Bias);
    let out = l.output(0);
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    // Images have three channels: no whole chunks.
    let source = if channels % 8 == 0 { "Windows" } else { "StemWindows" };
    let plan = Product::new(l, &format!("{source}{kernel}/{stride}"), epilogue, [rows, n, spec.depth()]);

    let mut text = KernelText::new("conv", "conv/forward.cuh");
    text.include(plan.header);
    plan.define(&mut text, l, epilogue);
    text.define(format!("using Source = conv::{source}<S, {channels}, {kernel}, {stride}, {padding}>;"));
    text.parameter("const E *x", x);
    text.parameter("const u8 *weight", weight);
    text.parameter("E *out", out);
    text.parameter("int rows", Argument::I32(rows as i32));
    for (name, size) in ["height", "width", "out_height", "out_width"].into_iter().zip([input, spec.output()].concat())
    {
        text.parameter(format!("int {name}"), Argument::I32(size as i32));
    }
    text.line("Source source;");
    text.line("source.x = x;");
    text.line("source.map = {height, width, out_height, out_width};");
    operands.write(&mut text, epilogue);
    text.line(format!("{}<S, {n}, Source::K>(source, weight, epilogue, out, rows);", plan.function));
    l.launch(&text, plan.tile.grid(rows, n), flops, bytes);
    plan.detail(l, epilogue, 1);
}
