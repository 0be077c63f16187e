//! Gradients of attention, un-fused and inside windows, and of the mask head's product.

use super::super::Lowering;
use super::super::window_attention::plan;
use super::sums::{add_parts, put_parts};
use super::{THREADS, begin, integer, launch, launch_beside};
use crate::cuda::kernel::{Argument, KernelText};
use crate::ir::Slot;
use segface_kernels::attention::AttentionSpec;
use segface_kernels::mask_head::MaskProductSpec;
use segface_kernels::window_attention::{WindowCoreSpec, WindowKind};

/// Partners from which on a block shares a query or key instead of a warp.
const MANY: usize = 512;

/// Two launches, and one for each operand that all images share.
pub(super) fn attention(l: &mut Lowering<'_>, spec: &AttentionSpec, shared: [bool; 3]) {
    let AttentionSpec { batch, queries, keys, heads, head_dim, scale } = *spec;
    let width = heads * head_dim;
    let tokens = [queries, keys, keys];
    let statistics = l.workspace(batch * heads * queries * 3 * size_of::<f32>());
    let shared = shared.map(|shared| shared && batch > 1);
    // A map an image; where images share the operand, their sum follows.
    let maps: Vec<Argument> = (0..3)
        .map(|i| if shared[i] { l.workspace(batch * tokens[i] * width * size_of::<f32>()) } else { l.output(i) })
        .collect();
    let operands = [("q", Slot::Query), ("k", Slot::Key), ("v", Slot::Value), ("d_out", Slot::Gradient)]
        .map(|(name, slot)| (name, l.element(slot)));
    let open = |room: &'static str, l: &Lowering<'_>| {
        let mut text = begin(l, room, "attention/backward.cuh");
        text.block(THREADS, 0, "attention::BACKWARD_THREADS - 256");
        for (name, argument) in operands {
            text.parameter(format!("const E *{name}"), argument);
        }
        text
    };
    let close = |text: &mut KernelText| {
        integer(text, "queries", queries);
        integer(text, "keys", keys);
        for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
            integer(text, &format!("{name}_stride"), if shared[i] { 0 } else { tokens[i] * width });
        }
        text.parameter("float scale", Argument::F32(scale));
    };
    let lanes = |partners: usize| if partners >= MANY { THREADS } else { 32 };

    let mut text = open("attention_queries", l);
    text.parameter("E *d_q", maps[0]);
    text.parameter("float *statistics", statistics);
    close(&mut text);
    text.line(format!(
        "attention::queries_backward<E, {head_dim}, {}>(q, k, v, d_out, d_q, statistics, queries, keys, {{q_stride, k_stride, \
         v_stride}}, scale);",
        lanes(keys)
    ));
    launch(l, &text, [(queries * lanes(keys)).div_ceil(THREADS), heads, batch]);

    let mut text = open("attention_keys", l);
    text.parameter("const float *statistics", statistics);
    text.parameter("E *d_k", maps[1]);
    text.parameter("E *d_v", maps[2]);
    close(&mut text);
    text.line(format!(
        "attention::keys_backward<E, {head_dim}, {}>(q, k, v, d_out, statistics, d_k, d_v, queries, keys, {{q_stride, k_stride, \
         v_stride}}, scale);",
        lanes(queries)
    ));
    launch_beside(l, &text, [(keys * lanes(queries)).div_ceil(THREADS), heads, batch]);

    for i in (0..3).filter(|&i| shared[i]) {
        let out = l.output(i);
        put_parts(l, maps[i], Argument::Null, out, [batch, tokens[i] * width, 1]);
    }
}

/// `mask_head::PRODUCT_WIDTH` and `PRODUCT_PART`.
const PRODUCT_WIDTH: usize = 32;
const PRODUCT_PART: usize = 1024;

/// Three launches.
pub(super) fn mask_product(l: &mut Lowering<'_>, spec: &MaskProductSpec) {
    let MaskProductSpec { batch, pixels, classes } = *spec;
    let open = |room: &'static str, l: &Lowering<'_>| {
        let mut text = begin(l, room, "mask_head/backward.cuh");
        text.block(THREADS, 0, "mask_head::PRODUCT_THREADS - 256");
        text
    };
    let d_logits = l.f32(Slot::Gradient);
    let mut text = open("mask_product_map", l);
    text.parameter("const float *hyper", l.f32(Slot::Hyper));
    text.parameter("const float *d_logits", d_logits);
    text.parameter("E *d_u", l.output(0));
    integer(&mut text, "pixels", pixels);
    text.line(format!("mask_head::product_map<E, {classes}>(hyper, d_logits, d_u, pixels);"));
    launch(l, &text, [pixels.div_ceil(THREADS / 8), batch, 1]);

    let parts = pixels.div_ceil(PRODUCT_PART);
    let partial = l.workspace(batch * parts * classes * PRODUCT_WIDTH * size_of::<f32>());
    let mut text = open("mask_product_filters", l);
    text.parameter("const E *u", l.element(Slot::X));
    text.parameter("const float *d_logits", d_logits);
    text.parameter("float *partial", partial);
    integer(&mut text, "pixels", pixels);
    text.line(format!("mask_head::product_filters<E, {classes}>(u, d_logits, partial, pixels);"));
    launch_beside(l, &text, [parts, batch, 1]);
    let out = l.output(1);
    put_parts(l, partial, Argument::Null, out, [parts, classes * PRODUCT_WIDTH, batch]);
}

/// Blocks that share a head's windows at most: each leaves a matrix of its own.
const WINDOW_PARTS: usize = 64;
/// `window_attention::backward::bytes`.
const WINDOW_BYTES: usize = (4 * 64 * 33 + 2 * 64 * 65 + 2 * 64 + 2 * 32) * 4;

/// One launch, and one for each of bias and scale.
pub(super) fn window_core(l: &mut Lowering<'_>, spec: &WindowCoreSpec) {
    let WindowCoreSpec { batch, plan: geometry, channels, heads, kind } = *spec;
    let windows = batch * geometry.windows().iter().product::<usize>();
    let (parts, square) = (windows.min(WINDOW_PARTS), geometry.window.pow(4));
    let (d_bias, d_scale) = (l.gradient(Slot::ScoreBias), l.gradient(Slot::ScoreScale));
    let biases = l.workspace(parts * heads * square * size_of::<f32>());
    let scales = l.workspace(parts * heads * size_of::<f32>());
    let mut text = begin(l, "window_core_backward", "window_attention/backward.cuh");
    text.block(THREADS, WINDOW_BYTES, "window_attention::backward::bytes()");
    text.parameter("const E *qkv", l.element(Slot::X));
    text.parameter("const float *score_scale", l.f32(Slot::ScoreScale));
    text.parameter("const float *bias", l.f32(Slot::ScoreBias));
    text.parameter("const E *d_out", l.element(Slot::Gradient));
    super::result(l, &mut text);
    text.parameter("float *partial_bias", biases);
    text.parameter("float *partial_scale", scales);
    integer(&mut text, "windows", windows);
    plan(&mut text, geometry.window, geometry.input, geometry.shift);
    text.line(format!(
        "window_attention::backward::core<E, {}, {channels}, {}>(qkv, score_scale, bias, d_out, residual, d_x, partial_bias, \
         partial_scale, windows, plan);",
        geometry.window,
        kind == WindowKind::V2
    ));
    launch(l, &text, [parts, heads, 1]);
    add_parts(l, biases, d_bias, parts, heads * square);
    add_parts(l, scales, d_scale, parts, heads);
}
