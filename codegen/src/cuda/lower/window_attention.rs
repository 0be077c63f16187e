//! Window attention: two launches, and its un-fused parts.

use super::super::kernel::{Argument, KernelText};
use super::gemm::{EpilogueArguments, Rows, product};
use super::{Lowering, literal};
use crate::ir::Slot;
use crate::plan::Precision;
use segface_kernels::Epilogue;
use segface_kernels::cuda::position_bias_bytes;
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::window_attention::{
    WindowAttentionSpec, WindowCoreSpec, WindowGatherSpec, WindowKind, WindowPlan, WindowScatterSpec,
};

/// Channels of a head, and places of a window in the kernels.
const HEAD: usize = 32;
const TOKENS: usize = 64;

/// Norm, qkv and attention into working memory; then the projection with what follows it.
pub(super) fn window_attention(l: &mut Lowering<'_>, spec: &WindowAttentionSpec) {
    let WindowAttentionSpec { batch, input, channels, kind, eps, .. } = *spec;
    let rows = batch * input[0] * input[1];
    let x = l.element(Slot::X);
    let norms = [l.f32(Slot::NormWeight), l.f32(Slot::NormBias)];
    let attended = l.workspace(rows * channels * l.precision.dtype().size());
    attend(l, spec, x, norms, attended);

    let weight = l.packed(Slot::ProjWeight, channels, channels);
    let bias = l.f32(Slot::ProjBias);
    let out = l.output(0);
    let norm = (kind == WindowKind::V2).then_some(eps);
    let map = (rows * channels * l.precision.dtype().size()) as u64;
    let rows = Rows {
        spec: GemmSpec {
            rows,
            n: channels,
            k: channels,
            prologue: Prologue::None,
            epilogue: Epilogue { bias: true, norm, residual: true, ..Epilogue::default() },
        },
        x: attended,
        weight,
        norm: [Argument::Null; 2],
        gate: Argument::Null,
        epilogue: EpilogueArguments { bias, scale: Argument::Null, norm: norms, residual: x },
        out,
        flops: projection_flops(spec),
        bytes: 3 * map + (channels * channels * l.precision.dtype().size() + 4 * channels) as u64,
    };
    product(l, &rows);
}

fn projection_flops(spec: &WindowAttentionSpec) -> u64 {
    (2 * spec.batch * spec.input[0] * spec.input[1] * spec.channels * spec.channels) as u64
}

/// Heads that a block makes: as many as divide all heads, up to two or three, whose tiles and fragments fit it.
fn heads_per_block(precision: Precision, heads: usize) -> usize {
    match heads {
        n if n.is_multiple_of(2) => 2,
        n if n.is_multiple_of(3) && precision != Precision::F32 => 3,
        _ => 1,
    }
}

fn attend(l: &mut Lowering<'_>, spec: &WindowAttentionSpec, x: Argument, norms: [Argument; 2], out: Argument) {
    let WindowAttentionSpec { batch, input, channels, heads, window, shift, kind, eps } = *spec;
    let weight = l.packed(Slot::QkvWeight, 3 * channels, channels);
    let (bias, scale) = (l.f32(Slot::QkvBias), l.f32(Slot::ScoreScale));
    let position_bias = l.position_bias(Slot::ScoreBias, heads, window * window);
    let group = heads_per_block(l.precision, heads);
    let size = l.precision.dtype().size();
    let stages = 3;
    // `window_attention::bytes`: the main loop's buffers; later tiles of q, k and v, and squares of V2's.
    let loop_bytes = stages * (TOKENS + 3 * HEAD * group) * 64;
    let tiles = 3 * group * TOKENS * HEAD * size + if kind == WindowKind::V2 { 4 * group * TOKENS * 4 } else { 0 };
    let mut text = KernelText::new("window_attention", "window_attention/forward.cuh");
    text.define(format!(
        "using C = window_attention::Config<{}, {window}, {channels}, window_attention::Kind::{kind:?}, 1, {group}, {stages}>;",
        l.fragment_name()
    ));
    if l.is_plain() {
        text.include("window_attention/plain.cuh");
    }
    text.define("using E = C::S::E;");
    text.block(128 * group, loop_bytes.max(tiles), "window_attention::bytes<C>()");
    text.parameter("const E *x", x);
    text.parameter("const float *norm_weight", norms[0]);
    text.parameter("const float *norm_bias", norms[1]);
    text.parameter("const u8 *qkv_weight", weight);
    text.parameter("const float *qkv_bias", bias);
    text.parameter("const float *score_scale", scale);
    text.parameter("const float *position_bias", position_bias);
    text.parameter("E *out", out);
    text.parameter("int batch", Argument::I32(batch as i32));
    plan(&mut text, window, input, shift);
    text.line(format!(
        "window_attention::forward<C>(x, norm_weight, norm_bias, {}, qkv_weight, qkv_bias, score_scale, position_bias, out, \
         batch, plan);",
        literal(eps)
    ));
    let map = (2 * batch * input[0] * input[1] * channels * size) as u64;
    let weights = (3 * channels * channels * size + (heads * window.pow(4) + 3 * channels) * 4) as u64;
    let flops = l.node().flops(l.graph).saturating_sub(projection_flops(spec));
    let windows = batch * spec.plan().windows().iter().product::<usize>();
    l.launch(&text, [windows as u32, (heads / group) as u32, 1], flops, map + weights);
    // Rows once a group of heads, twice where they are normed; weights and biases of its heads once a block.
    let reads = heads / group * if kind == WindowKind::V1 { 2 } else { 1 };
    let tokens = batch * input[0] * input[1] * channels * (reads + 1) * size;
    let of_window = 3 * channels * channels * size + position_bias_bytes(heads, window * window);
    let steps = (channels * size).div_ceil(64);
    l.detail(|detail| (detail.traffic, detail.steps) = ((tokens + windows * of_window) as u64, steps as u32));
}

/// Parameters of a `window_attention::Plan`, and `plan` made of them.
pub(super) fn plan(text: &mut KernelText, window: usize, input: [usize; 2], shift: [usize; 2]) {
    for (name, value) in [("height", input[0]), ("width", input[1]), ("shift_y", shift[0]), ("shift_x", shift[1])] {
        text.parameter(format!("int {name}"), Argument::I32(value as i32));
    }
    text.line(format!("const window_attention::Plan<{window}> plan(height, width, shift_y, shift_x);"));
}

/// Threads of a block that moves tokens: `window_attention::MOVE_THREADS`.
const MOVE_THREADS: usize = 256;

/// One launch.
pub(super) fn gather(l: &mut Lowering<'_>, spec: &WindowGatherSpec) {
    let fill = l.f32(Slot::Fill);
    let call = format!("gather<E, {}, {}>(x, fill, out, batch, plan)", spec.channels, spec.plan.window);
    mover(l, spec.batch, spec.plan, spec.channels, Some(fill), &call);
}

/// One launch.
pub(super) fn scatter(l: &mut Lowering<'_>, spec: &WindowScatterSpec) {
    let call = format!("scatter<E, {}, {}>(x, out, batch, plan)", spec.channels, spec.plan.window);
    mover(l, spec.batch, spec.plan, spec.channels, None, &call);
}

fn mover(
    l: &mut Lowering<'_>,
    batch: usize,
    geometry: WindowPlan,
    channels: usize,
    fill: Option<Argument>,
    call: &str,
) {
    let (x, out) = (l.element(Slot::X), l.output(0));
    let mut text = KernelText::new("window_move", "window_attention/unfused.cuh");
    text.define(format!("using E = {};", l.element_name()));
    text.block(MOVE_THREADS, 0, "0");
    text.parameter("const E *x", x);
    if let Some(fill) = fill {
        text.parameter("const float *fill", fill);
    }
    text.parameter("E *out", out);
    text.parameter("int batch", Argument::I32(batch as i32));
    plan(&mut text, geometry.window, geometry.input, geometry.shift);
    text.line(format!("window_attention::{call};"));
    let chunks = batch * geometry.padded().iter().product::<usize>() * channels * l.precision.dtype().size() / 16;
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [chunks.div_ceil(MOVE_THREADS) as u32, 1, 1], flops, bytes);
}

/// One launch.
pub(super) fn core(l: &mut Lowering<'_>, spec: &WindowCoreSpec) {
    let WindowCoreSpec { batch, plan: geometry, channels, heads, kind } = *spec;
    let (x, scale, bias) = (l.element(Slot::X), l.f32(Slot::ScoreScale), l.f32(Slot::ScoreBias));
    let out = l.output(0);
    let mut text = KernelText::new("window_core", "window_attention/tiled.cuh");
    text.define(format!("using E = {};", l.element_name()));
    // `tiled::bytes`: rows of q, k and v and of scores, one word longer than their numbers.
    text.block(256, (3 * TOKENS * (HEAD + 1) + TOKENS * (TOKENS + 1)) * 4, "window_attention::tiled::bytes()");
    text.parameter("const E *qkv", x);
    text.parameter("const float *score_scale", scale);
    text.parameter("const float *bias", bias);
    text.parameter("E *out", out);
    plan(&mut text, geometry.window, geometry.input, geometry.shift);
    text.line(format!(
        "window_attention::tiled::core<E, {}, {channels}, {}>(qkv, score_scale, bias, out, plan);",
        geometry.window,
        kind == WindowKind::V2
    ));
    let windows = batch * geometry.windows().iter().product::<usize>();
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [windows as u32, heads as u32, 1], flops, bytes);
}
