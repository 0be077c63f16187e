//! Passes over the image tokens and steps on the class tokens.

use super::super::kernel::{Argument, KernelText};
use super::{Lowering, literal};
use crate::ir::{AttentionRole, Projection, Slot};
use segface_kernels::cuda::packed_bytes;
use segface_kernels::token_attention::{ImagePassSpec, TokenStage, TokenStepSpec};

const HEADS: usize = 8;
const WIDTH: usize = 256;
const THREADS: usize = 256;
/// `token_attention::MAX_CHUNKS`: partial sums of one image at most, one for each multiprocessor of a large card.
const MAX_CHUNKS: usize = 128;
/// Blocks of a step.
const STEP_GRID: u32 = 64;
/// `token_attention::STEP_WORKSPACE`: numbers of working memory per class token.
const STEP_WORKSPACE: usize = 4864;

/// Three launches at most: operands packed, the pass, its partial sums merged.
pub(super) fn image_pass(l: &mut Lowering<'_>, spec: &ImagePassSpec) {
    let ImagePassSpec { batch, input: [_, width], tokens, update, attend, shared_attend, eps } = *spec;
    let (rows, pixels) = (HEADS * tokens, spec.pixels());
    let fragment = l.precision.fragment();
    let name = fragment.name();
    let scores_bytes = packed_bytes(fragment, rows, WIDTH);
    let values_bytes = packed_bytes(fragment, WIDTH, rows);

    // What the host packed already: a query that is the same for all images, known when the network is compiled.
    let known = shared_attend && l.is_constant(Slot::AttendScores);
    let mut packed = [Argument::Null; 3];
    let mut sources = [Argument::Null; 3];
    if update {
        sources[0] = l.f32(Slot::UpdateScores);
        sources[1] = l.f32(Slot::UpdateValues);
        packed[0] = l.workspace(batch * scores_bytes);
        packed[1] = l.workspace(batch * values_bytes);
    }
    if attend && known {
        packed[2] = l.packed(Slot::AttendScores, rows, WIDTH);
    } else if attend {
        sources[2] = l.f32(Slot::AttendScores);
        packed[2] = l.workspace(batch * scores_bytes);
    }
    if sources.iter().any(|source| *source != Argument::Null) {
        let mut text = KernelText::new("token_pack", "token_attention/pack.cuh");
        text.block(THREADS, 0, "0");
        let names = ["update_scores", "update_values", "attend_scores"];
        for (name, argument) in names.iter().zip(sources) {
            text.parameter(format!("const float *{name}"), argument);
        }
        for (name, (argument, source)) in names.iter().zip(packed.into_iter().zip(sources)) {
            let argument = if source == Argument::Null { Argument::Null } else { argument };
            text.parameter(format!("u8 *packed_{name}"), argument);
        }
        text.line(format!(
            "token_attention::pack_operands<{name}, {tokens}>(update_scores, update_values, attend_scores, \
             packed_update_scores, packed_update_values, packed_attend_scores, {shared_attend});"
        ));
        // A block of 512 bytes for each warp.
        let grid = (2 * scores_bytes + values_bytes).div_ceil(512 * (THREADS / 32));
        let matrices = sources.iter().filter(|source| **source != Argument::Null).count();
        let bytes = matrices * batch * rows * WIDTH * (4 + fragment.dtype().size());
        l.launch(&text, [grid as u32, batch as u32, 1], 0, bytes as u64);
    }

    // Whole tiles of 64 tokens, by their number alone.
    let chunk = pixels.div_ceil(MAX_CHUNKS).next_multiple_of(64);
    let chunks = pixels.div_ceil(chunk);
    let (partials, statistics) = match attend {
        true => (l.workspace(batch * chunks * rows * WIDTH * 4), l.workspace(batch * chunks * rows * 8)),
        false => (Argument::Null, Argument::Null),
    };
    let mut text = KernelText::new("image_pass", "token_attention/forward.cuh");
    let atom = l.fragment_name();
    text.define(format!("using Pass = token_attention::ImagePass<{atom}, {tokens}, {update}, {attend}>;"));
    text.define("using E = Pass::E;");
    // Two tiles, two stages of weights, maxima, sums and factors of the rows of scores, an even number of atoms.
    let statistics_bytes = 3 * 4 * 16 * rows.div_ceil(16).next_multiple_of(2);
    text.block(THREADS, 3 * 32768 + statistics_bytes, "token_attention::bytes<Pass>()");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("E *out", if update { l.output(0) } else { Argument::Null });
    text.parameter("const float *pe", l.f32(Slot::Pe));
    text.parameter("const u8 *update_scores", packed[0]);
    text.parameter("const float *update_score_bias", l.f32(Slot::UpdateScoreBias));
    text.parameter("const u8 *update_values", packed[1]);
    text.parameter("const float *update_bias", l.f32(Slot::UpdateBias));
    text.parameter("const float *norm_weight", l.f32(Slot::NormWeight));
    text.parameter("const float *norm_bias", l.f32(Slot::NormBias));
    text.parameter("const u8 *attend_scores", packed[2]);
    text.parameter("float *partials", partials);
    text.parameter("float2 *statistics", statistics);
    text.parameter("int pixels", Argument::I32(pixels as i32));
    text.parameter("int width", Argument::I32(width as i32));
    text.parameter("int chunk", Argument::I32(chunk as i32));
    text.line(format!(
        "const token_attention::ImagePassOperands operands{{x, out, pe, update_scores, update_score_bias, update_values, \
         update_bias, norm_weight, norm_bias, attend_scores, partials, statistics, pixels, width, chunk, {shared_attend}, \
         {}}};",
        literal(eps)
    ));
    text.line("token_attention::image_pass<Pass>(operands);");
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [chunks as u32, batch as u32, 1], flops, bytes);
    // Operands once a tile of 64 tokens; turns of 64 bytes of k through them.
    let operands = if update { scores_bytes + values_bytes } else { 0 } + if attend { scores_bytes } else { 0 };
    let tiles = chunk / 64;
    let partial = if attend { rows * WIDTH * 4 } else { 0 };
    let traffic = bytes as usize + batch * chunks * (tiles * operands + partial);
    let turns = |k: usize| (k * l.size()).div_ceil(64);
    let steps =
        tiles * (usize::from(update) * (turns(WIDTH) + turns(rows)) + usize::from(attend) * (turns(WIDTH) + turns(64)));
    l.detail(|detail| (detail.traffic, detail.steps) = (traffic as u64, steps as u32));

    if attend {
        let mut text = KernelText::new("token_merge", "token_attention/forward.cuh");
        text.block(THREADS, 0, "0");
        text.parameter("const float *partials", partials);
        text.parameter("const float2 *statistics", statistics);
        text.parameter("float *pooled", l.output(usize::from(update)));
        text.parameter("int chunks", Argument::I32(chunks as i32));
        text.line("token_attention::merge(partials, statistics, pooled, chunks);");
        let bytes = batch * (chunks + 1) * rows * WIDTH * 4;
        l.launch(&text, [rows as u32, batch as u32, 1], 0, bytes as u64);
    }
}

/// One cooperative launch.
pub(super) fn token_step(l: &mut Lowering<'_>, spec: &TokenStepSpec) {
    use AttentionRole::{ImageToToken, Next, Pending, SelfAttention};
    use Projection::{Key, Out, Query, Value};
    let TokenStepSpec { batch, tokens, stage, eps } = *spec;
    let mut text = KernelText::new("token_step", "token_attention/token_step.cuh");
    text.block(THREADS, 0, "0");
    // All blocks must be resident at once, also on cards with half as many multiprocessors.
    text.resident(2);
    text.line("token_attention::TokenStepOperands operands{};");
    let operand = |text: &mut KernelText, field: &str, argument: Argument| {
        text.parameter(format!("const float *{field}"), argument);
        text.line(format!("operands.{field} = {field};"));
    };
    operand(&mut text, "token_pe", l.f32(Slot::Pe));
    operand(&mut text, "pooled", l.f32(Slot::Pooled));
    operand(&mut text, "q_in", l.f32(Slot::X));
    let q_stride = if stage == TokenStage::Layer0 { 0 } else { tokens * WIDTH };
    text.line(format!("operands.q_in_stride = {q_stride};"));

    let pair = |l: &mut Lowering<'_>, text: &mut KernelText, field: &str, weight: Slot, bias: Slot| {
        text.parameter(format!("const float *{field}_weight"), l.f32(weight));
        text.parameter(format!("const float *{field}_bias"), l.f32(bias));
        text.line(format!("operands.{field} = {{{field}_weight, {field}_bias}};"));
    };
    let mut projections = vec![("pending_value", Pending, Value), ("pending_out", Pending, Out)];
    pair(l, &mut text, "pending_norm", Slot::RoleNormWeight(Pending), Slot::RoleNormBias(Pending));
    pair(l, &mut text, "mlp1", Slot::Weight, Slot::Bias);
    pair(l, &mut text, "mlp2", Slot::Weight1, Slot::Bias1);
    if stage == TokenStage::Final {
        pair(l, &mut text, "mlp3", Slot::Weight2, Slot::Bias2);
    } else {
        pair(l, &mut text, "mlp_norm", Slot::PostNormWeight, Slot::PostNormBias);
        projections.extend([
            ("query", ImageToToken, Query),
            ("key", ImageToToken, Key),
            ("value", ImageToToken, Value),
            ("out", ImageToToken, Out),
            ("next_query", Next, Query),
            ("next_key", Next, Key),
        ]);
    }
    if stage == TokenStage::Layer0 {
        pair(l, &mut text, "self_norm", Slot::RoleNormWeight(SelfAttention), Slot::RoleNormBias(SelfAttention));
        projections.extend([
            ("self_query", SelfAttention, Query),
            ("self_key", SelfAttention, Key),
            ("self_value", SelfAttention, Value),
            ("self_out", SelfAttention, Out),
        ]);
    }
    for (field, role, projection) in projections {
        let (weight, bias) = (Slot::Projection(role, projection), Slot::ProjectionBias(role, projection));
        pair(l, &mut text, field, weight, bias);
    }

    let results: &[&str] = match stage {
        TokenStage::Final => &["q_out", "hyper"],
        _ => &["q_out", "update_scores", "update_score_bias", "update_values", "attend_scores"],
    };
    for (index, field) in results.iter().enumerate() {
        text.parameter(format!("float *{field}"), l.output(index));
        text.line(format!("operands.{field} = {field};"));
    }
    text.parameter("float *workspace", l.workspace(batch * tokens * STEP_WORKSPACE * 4));
    text.parameter("u32 *counters", l.counters(2));
    text.parameter("int batch", Argument::I32(batch as i32));
    text.line("operands.workspace = workspace;");
    text.line("operands.counters = counters;");
    text.line("operands.batch = batch;");
    text.line(format!("operands.eps = {};", literal(eps)));
    let (stage, barriers) = match stage {
        TokenStage::Layer0 => ("Layer0", 8),
        TokenStage::Layer1 => ("Layer1", 5),
        TokenStage::Final => ("Final", 4),
    };
    text.line(format!("token_attention::token_step<{tokens}, token_attention::Stage::{stage}>(operands);"));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch_cooperative(&text, [STEP_GRID, 1, 1], flops, bytes);
    // A launch does the layers for one image after the other's units: barriers do not grow with the batch.
    l.detail(|detail| detail.barriers = barriers);
}
