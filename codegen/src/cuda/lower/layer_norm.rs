//! Layer norms by themselves.

use super::super::kernel::{Argument, KernelText};
use super::{Lowering, literal};
use crate::ir::Slot;
use segface_kernels::layer_norm::LayerNormSpec;

/// Warps of a block: `layer_norm::WARPS`.
const WARPS: usize = 4;

/// One launch.
pub(super) fn layer_norm(l: &mut Lowering<'_>, spec: &LayerNormSpec) {
    let LayerNormSpec { rows, channels, eps } = *spec;
    let (x, weight, bias, out) = (l.element(Slot::X), l.f32(Slot::NormWeight), l.f32(Slot::NormBias), l.output(0));
    let element = l.element_name();
    let chunks = channels * l.precision.dtype().size() / 16;
    let lanes = match chunks {
        0..=8 => 8,
        9..=16 => 16,
        _ => 32,
    };
    let mut text = KernelText::new("layer_norm", "layer_norm/forward.cuh");
    text.define(format!("using E = {element};"));
    text.block(WARPS * 32, 0, "0");
    text.parameter("const E *x", x);
    text.parameter("const float *weight", weight);
    text.parameter("const float *bias", bias);
    text.parameter("E *out", out);
    text.parameter("int rows", Argument::I32(rows as i32));
    text.line(format!("layer_norm::forward<E, {channels}>(x, weight, bias, {}, out, rows);", literal(eps)));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [rows.div_ceil(WARPS * 32 / lanes) as u32, 1, 1], flops, bytes);
}
