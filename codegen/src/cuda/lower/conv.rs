//! Dense convolutions: a product whose rows are gathered from windows.

use super::super::kernel::{Argument, KernelText};
use super::Lowering;
use super::gemm::{EpilogueArguments, epilogue_type, tile_for};
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
    let tile = tile_for(epilogue, rows, n);
    // Images have three channels: no whole chunks.
    let source = if channels % 8 == 0 { "Windows" } else { "StemWindows" };

    let mut text = KernelText::new("conv", "conv/forward.cuh");
    text.define(format!("using S = {};", tile.shape(l.precision)));
    text.define(format!("using E = S::E;\nusing Epi = {};", epilogue_type(epilogue)));
    text.define(format!("using Source = conv::{source}<S, {channels}, {kernel}, {stride}, {padding}>;"));
    text.block(tile.threads(), tile.bytes(epilogue.norm.is_some()), "gemm::bytes<S, Epi>()");
    text.parameter("const E *x", x);
    text.parameter("const u8 *weight", weight);
    text.parameter("E *out", out);
    text.parameter("int rows", Argument::I32(rows as i32));
    for (name, size) in ["height", "width", "out_height", "out_width"].into_iter().zip([input, spec.output()].concat()) {
        text.parameter(format!("int {name}"), Argument::I32(size as i32));
    }
    text.line("Source source;");
    text.line("source.x = x;");
    text.line("source.map = {height, width, out_height, out_width};");
    operands.write(&mut text, epilogue);
    text.line(format!("gemm::forward<S, {n}, Source::K>(source, weight, epilogue, out, rows);"));
    l.launch(&text, tile.grid(rows, n), flops, bytes);
}
