//! The mask head, and its parts un-fused.

use super::super::kernel::{Argument, KernelText};
use super::Lowering;
use crate::ir::Slot;
use segface_kernels::mask_head::{ArgMaxSpec, MaskHeadOutput, MaskHeadSpec, MaskProductSpec};

const THREADS: usize = 256;
const WIDTH: usize = 256;
/// Channels after the first and the second transposed convolution.
const MIDDLE: usize = 64;
const UPSCALED: usize = 32;

/// One launch.
pub(super) fn mask_head(l: &mut Lowering<'_>, spec: &MaskHeadSpec) {
    let MaskHeadSpec { batch, input: [height, width], classes, output } = *spec;
    let labels = output == MaskHeadOutput::Labels;
    let fragment = l.precision.fragment();
    let size = fragment.dtype().size();
    let rows = if size == 2 { 64 } else { 32 };
    let mut text = KernelText::new("mask_head", "mask_head/forward.cuh");
    text.define(format!("using P = {};\nusing E = P::Element;", fragment.name()));
    text.define(format!("using Head = mask_head::MaskHead<P, {classes}, {labels}>;"));
    // Tile, two stages of the first weight (where the second lies later), each warp's u, the filters; labels, or the part of the gathered
    // logits that is beyond what the second weight and u leave.
    let tile = rows * WIDTH * size;
    let stages = 2 * WIDTH * 64;
    let upscaled = 8 * (rows / 2) * UPSCALED * size;
    let filters = classes.next_multiple_of(8) * UPSCALED * size;
    let gathered = if labels {
        rows * 16
    } else {
        (2 * 32 * (classes | 1) * 16).saturating_sub(stages - 4 * UPSCALED * MIDDLE * size + upscaled)
    };
    text.block(THREADS, tile + stages + upscaled + filters + gathered, "mask_head::bytes<Head>()");
    if labels && classes <= 24 {
        text.resident(2);
    }
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const u8 *weight1", l.packed(Slot::Weight, 4 * MIDDLE, WIDTH));
    text.parameter("const float *bias1", l.f32(Slot::Bias));
    text.parameter("const float *norm_weight", l.f32(Slot::NormWeight));
    text.parameter("const float *norm_bias", l.f32(Slot::NormBias));
    text.parameter("const u8 *weight2", l.packed(Slot::Weight1, 4 * UPSCALED, MIDDLE));
    text.parameter("const float *bias2", l.f32(Slot::Bias1));
    text.parameter("const float *hyper", l.f32(Slot::Hyper));
    let out = if labels { "u8 *out" } else { "float *out" };
    text.parameter(out, l.output(0));
    text.parameter("int height", Argument::I32(height as i32));
    text.parameter("int width", Argument::I32(width as i32));
    let outputs = if labels { "out, nullptr" } else { "nullptr, out" };
    text.line(format!(
        "mask_head::forward<Head>({{x, weight1, bias1, norm_weight, norm_bias, weight2, bias2, hyper, {outputs}, height, \
         width}});"
    ));
    let grid = [(height * width).div_ceil(rows) as u32, batch as u32, 1];
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, grid, flops, bytes);
    // Weights once a block; turns of 64 bytes of k.
    let blocks = grid[0] as usize * batch;
    let traffic = bytes as usize + blocks * (4 * MIDDLE * WIDTH + 4 * UPSCALED * MIDDLE) * size;
    let steps = (WIDTH * size).div_ceil(64) + (MIDDLE * size).div_ceil(64);
    l.detail(|detail| (detail.traffic, detail.steps) = (traffic as u64, steps as u32));
}

/// One launch.
pub(super) fn mask_product(l: &mut Lowering<'_>, spec: &MaskProductSpec) {
    let MaskProductSpec { batch, pixels, classes } = *spec;
    let mut text = KernelText::new("mask_product", "mask_head/forward.cuh");
    text.define(format!("using E = {}::Element;", l.precision.fragment().name()));
    text.block(THREADS, 0, "0");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("const float *hyper", l.f32(Slot::Hyper));
    text.parameter("float *logits", l.output(0));
    text.parameter("int pixels", Argument::I32(pixels as i32));
    text.line(format!("mask_head::mask_product<E, {classes}>(x, hyper, logits, pixels);"));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [pixels.div_ceil(THREADS) as u32, batch as u32, 1], flops, bytes);
}

/// One launch.
pub(super) fn arg_max(l: &mut Lowering<'_>, spec: &ArgMaxSpec) {
    let ArgMaxSpec { rows, classes } = *spec;
    let mut text = KernelText::new("arg_max", "mask_head/forward.cuh");
    text.block(THREADS, 0, "0");
    text.parameter("const float *logits", l.f32(Slot::X));
    text.parameter("u8 *labels", l.output(0));
    text.parameter("int rows", Argument::I32(rows as i32));
    text.line(format!("mask_head::arg_max<{classes}>(logits, labels, rows);"));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [rows.div_ceil(THREADS) as u32, 1, 1], flops, bytes);
}
