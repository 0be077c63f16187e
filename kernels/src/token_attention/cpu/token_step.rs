//! A step on the class tokens: some ten small products one after another, each shared out over all threads.

use super::absorb::{Combine, SELF_HEAD_DIM, SelfAttentionHead};
use super::linear::{Inputs, packed_linear, project};
use crate::context::{Disjoint, scratch_bytes};
use crate::rows::normalize_row;
use crate::simd::dispatch;
use crate::token_attention::spec::{HEAD_DIM, HEADS, WIDTH};
use crate::token_attention::{CrossAttentionWeights, TokenStage, TokenStepOperands, TokenStepSpec};
use crate::{Act, Context};

/// Width inside the attentions between image and class tokens.
const INNER: usize = HEADS * HEAD_DIM;

/// Softmax scale of those attentions, 1/√16.
const SCALE: f32 = 0.25;

/// Runs the step. It allocates some hundred kilobytes for the tokens' hidden values.
///
/// # Panics
/// If an operand that the stage needs is missing or has another length than the spec says.
pub fn token_step(ctx: &mut Context, spec: &TokenStepSpec, operands: TokenStepOperands<'_>) {
    let TokenStepSpec { batch, tokens, stage, eps } = *spec;
    let rows = batch * tokens;
    let len = rows * WIDTH;
    let TokenStepOperands { token_pe, pooled, q_in, pending, pending_norm, q_out: q, .. } = operands;
    assert_eq!(token_pe.len(), tokens * WIDTH, "token_pe");
    assert_eq!(pooled.len(), HEADS * len, "pooled");
    assert_eq!(q.len(), len, "q_out");
    let q_in_len = if stage == TokenStage::Layer0 { tokens * WIDTH } else { len };
    assert_eq!(q_in.len(), q_in_len, "q_in");
    for (row, q) in q.chunks_exact_mut(WIDTH).enumerate() {
        q.copy_from_slice(&q_in[row * WIDTH % q_in_len..][..WIDTH]);
    }

    let mut inner = vec![0.0; rows * INNER];
    let by_head = Inputs { data: pooled, tokens, image_stride: HEADS * tokens * WIDTH, head_stride: tokens * WIDTH };
    project(ctx, rows, WIDTH, by_head, pending.v, &mut inner);
    let mut change = vec![0.0; len];
    project(ctx, rows, INNER, Inputs::plain(&inner, tokens, INNER), pending.out, &mut change);
    add_and_norm(ctx, q, &mut change, pending_norm, eps);

    if stage == TokenStage::Final {
        let [first, second, third] = operands.hyper_mlp.expect("the final step has a hypernetwork");
        let mut hidden = vec![0.0; len];
        packed_linear(ctx, rows, q, first, Act::Relu, &mut change);
        packed_linear(ctx, rows, &change, second, Act::Relu, &mut hidden);
        packed_linear(ctx, rows, &hidden, third, Act::Identity, operands.hyper);
        return;
    }

    let (first, second, norm) = operands.mlp.expect("the steps of both layers have an MLP");
    let mut hidden = vec![0.0; rows * first.weight.n()];
    packed_linear(ctx, rows, q, first, Act::Relu, &mut hidden);
    packed_linear(ctx, rows, &hidden, second, Act::Identity, &mut change);
    add_and_norm(ctx, q, &mut change, norm, eps);

    // The image looks at the class tokens.
    let weights = operands.image_to_token.expect("the steps of both layers have an image-to-token attention");
    let mut encoded = encode(q, token_pe);
    project(ctx, rows, WIDTH, Inputs::plain(&encoded, tokens, WIDTH), weights.k, &mut inner);
    let order = Order { tokens, token_stride: HEADS, head_stride: 1 };
    absorb(ctx, order, &inner, weights.q.weight, SCALE, operands.update_scores);
    score_bias(tokens, &inner, weights.q.bias, operands.update_score_bias);
    project(ctx, rows, WIDTH, Inputs::plain(q, tokens, WIDTH), weights.v, &mut inner);
    absorb(ctx, order, &inner, &transpose(weights.out.weight), 1.0, operands.update_values);

    if stage == TokenStage::Layer0 {
        let (weights, norm) = operands.self_attention.expect("layer 0's step ends with layer 1's self-attention");
        self_attention(ctx, tokens, q, &encoded, weights, &mut change);
        add_and_norm(ctx, q, &mut change, norm, eps);
        encoded = encode(q, token_pe);
    }

    // The next look of the class tokens at the image. What b_k adds to a row of scores cancels in its softmax.
    let next = operands.next.expect("the steps of both layers have a next attention");
    project(ctx, rows, WIDTH, Inputs::plain(&encoded, tokens, WIDTH), next.q, &mut inner);
    let order = Order { tokens, token_stride: 1, head_stride: tokens };
    absorb(ctx, order, &inner, next.k.weight, SCALE, operands.attend_scores);
}

/// q + pe for every image.
fn encode(q: &[f32], token_pe: &[f32]) -> Vec<f32> {
    q.iter().zip(token_pe.iter().cycle()).map(|(q, pe)| q + pe).collect()
}

/// `q ← LN(q + change)`; `change` is overwritten.
fn add_and_norm(ctx: &Context, q: &mut [f32], change: &mut [f32], norm: (&[f32], &[f32]), eps: f32) {
    change.iter_mut().zip(q.iter()).for_each(|(change, q)| *change += q);
    for (q, sum) in q.chunks_exact_mut(WIDTH).zip(change.chunks_exact(WIDTH)) {
        normalize_row(ctx.isa(), sum, norm.0, norm.1, eps, q);
    }
}

/// Where the row of (t, h) is among an image's 8·T rows.
#[derive(Clone, Copy)]
struct Order {
    tokens: usize,
    token_stride: usize,
    head_stride: usize,
}

/// `out[(t, h)] = scale · Σ_d inner[t, h·16 + d]·weight[h·16 + d]`, inner [batch·T, 128], weight [128, 256].
fn absorb(ctx: &mut Context, order: Order, inner: &[f32], weight: &[f32], scale: f32, out: &mut [f32]) {
    let Order { tokens, token_stride, head_stride } = order;
    assert_eq!(weight.len(), INNER * WIDTH, "weight of a head's projection");
    assert_eq!(out.len(), inner.len() / HEAD_DIM * WIDTH, "absorbed projection");
    let isa = ctx.isa();
    let out = Disjoint::new(out);
    let batch = inner.len() / (tokens * INNER);
    ctx.parallel(batch * HEADS, 0, |task, _| {
        let (image, head) = (task / HEADS, task % HEADS);
        for t in 0..tokens {
            let row = image * HEADS * tokens + t * token_stride + head * head_stride;
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(row * WIDTH, WIDTH) };
            dispatch(
                isa,
                Combine {
                    coefficients: &inner[(image * tokens + t) * INNER + head * HEAD_DIM..][..HEAD_DIM],
                    matrix: &weight[head * HEAD_DIM * WIDTH..][..HEAD_DIM * WIDTH],
                    scale,
                    out,
                },
            );
        }
    });
}

/// `out[t·8 + h] = Σ_d bias[h·16 + d]·inner[t, h·16 + d]/4`
fn score_bias(tokens: usize, inner: &[f32], bias: &[f32], out: &mut [f32]) {
    assert_eq!(out.len(), inner.len() / HEAD_DIM, "score bias of {tokens} tokens");
    for (inner, out) in inner.chunks_exact(INNER).zip(out.chunks_exact_mut(HEADS)) {
        for (head, out) in out.iter_mut().enumerate() {
            let range = head * HEAD_DIM..(head + 1) * HEAD_DIM;
            *out = SCALE * inner[range.clone()].iter().zip(&bias[range]).map(|(k, b)| k * b).sum::<f32>();
        }
    }
}

/// W_o [256, 128] → [128, 256].
fn transpose(weight: &[f32]) -> Vec<f32> {
    assert_eq!(weight.len(), WIDTH * INNER, "weight of an out projection");
    let mut columns = vec![0.0; weight.len()];
    for (n, row) in weight.chunks_exact(INNER).enumerate() {
        for (d, value) in row.iter().enumerate() {
            columns[d * WIDTH + n] = *value;
        }
    }
    columns
}

/// `out = W_o·attn(encoded, encoded, q) + b_o`, 8 heads of 32.
fn self_attention(
    ctx: &mut Context,
    tokens: usize,
    q: &[f32],
    encoded: &[f32],
    weights: CrossAttentionWeights<'_>,
    out: &mut [f32],
) {
    let rows = q.len() / WIDTH;
    let [mut queries, mut keys, mut values] = [(); 3].map(|()| vec![0.0; q.len()]);
    project(ctx, rows, WIDTH, Inputs::plain(encoded, tokens, WIDTH), weights.q, &mut queries);
    project(ctx, rows, WIDTH, Inputs::plain(encoded, tokens, WIDTH), weights.k, &mut keys);
    project(ctx, rows, WIDTH, Inputs::plain(q, tokens, WIDTH), weights.v, &mut values);
    let mut mixed = vec![0.0; q.len()];
    let isa = ctx.isa();
    {
        let mixed = Disjoint::new(&mut mixed);
        let score_len = tokens.next_multiple_of(16);
        let head_len = tokens * SELF_HEAD_DIM;
        let scratch_len = scratch_bytes::<f32>(score_len) + scratch_bytes::<f32>(head_len);
        ctx.parallel(rows / tokens * HEADS, scratch_len, |task, mut scratch| {
            let (image, head) = (task / HEADS, task % HEADS);
            let start = image * tokens * WIDTH + head * SELF_HEAD_DIM;
            let out = scratch.take::<f32>(head_len);
            dispatch(
                isa,
                SelfAttentionHead {
                    tokens,
                    q: &queries[start..],
                    k: &keys[start..],
                    v: &values[start..],
                    scale: (SELF_HEAD_DIM as f32).sqrt().recip(),
                    scores: scratch.take::<f32>(score_len),
                    out,
                },
            );
            for (t, row) in out.chunks_exact(SELF_HEAD_DIM).enumerate() {
                // SAFETY: each task has its own columns of its own image.
                unsafe { mixed.slice(start + t * WIDTH, SELF_HEAD_DIM) }.copy_from_slice(row);
            }
        });
    }
    project(ctx, rows, WIDTH, Inputs::plain(&mixed, tokens, WIDTH), weights.out, out);
}
