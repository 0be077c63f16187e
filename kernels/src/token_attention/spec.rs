//! What the kernels mean.

use crate::gemm::PackedMatrix;
use crate::{DType, Element};
use serde::{Deserialize, Serialize};

/// Width of image and class tokens.
pub(crate) const WIDTH: usize = 256;
/// Heads of every attention.
pub(crate) const HEADS: usize = 8;
/// Width of a head of the attentions between image and class tokens.
pub(crate) const HEAD_DIM: usize = 16;
/// Image tokens that go through a pass at a time.
pub(crate) const TILE: usize = 256;

/// One pass over the image tokens: `update` (the image looks at the class tokens), then `attend` (the class tokens look at
/// the image), either or both. With N = 8·T rows, in order t·8 + h for the update and h·T + t for the attend:
///
/// update: `s = A_u·(x_p + pe_p) + c_u`, softmax over t within each head, `x_p ← LN(x_p + Σ s[h, t]·V_u[h, t] + b_u)`
/// attend: `s = A_a·(x_p + pe_p)`, softmax over p for each (h, t), `pooled[h, t] = Σ_p s·x_p`, with the x_p just updated
///
/// Softmax scale and everything linear is already in A_u, c_u, V_u, A_a (see [`TokenStepSpec`]). Partial sums over p are
/// merged in a fixed order: the same bits every run, whatever the number of threads.
/// FLOPs per half: 4·256·N per image token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ImagePassSpec {
    /// Images.
    pub batch: usize,
    /// Height and width of the map of image tokens; P = height · width.
    pub input: [usize; 2],
    /// Class tokens T.
    pub tokens: usize,
    /// Whether the image looks at the class tokens first.
    pub update: bool,
    /// Whether the class tokens look at the image (after the update).
    pub attend: bool,
    /// Whether A_a is one for the whole batch (the first pass, where it is a constant) or one per image.
    pub shared_attend: bool,
    /// ε of the update's layer norm, 1e-5.
    pub eps: f32,
}

impl ImagePassSpec {
    /// P: image tokens of one image.
    pub fn pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Rows of the positional encoding's tables: one per column of the map, one per row.
    pub fn pe_rows(&self) -> usize {
        self.input[1] + self.input[0]
    }

    /// N = 8·T: rows of scores.
    pub fn rows(&self) -> usize {
        HEADS * self.tokens
    }

    /// Floating-point operations, two per multiply-add of the products.
    pub fn flops(&self) -> u64 {
        let halves = u64::from(self.update) + u64::from(self.attend);
        halves * 4 * (WIDTH * self.rows()) as u64 * (self.batch * self.pixels()) as u64
    }

    /// Bytes of memory traffic: x read and, by an update, written; the positional encoding's tables; the absorbed projections; pooled.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let x = self.batch * self.pixels() * WIDTH * dtype.size() * (1 + usize::from(self.update));
        let rows = self.batch * self.rows() * WIDTH * 4;
        (x + self.pe_rows() * WIDTH * 4 + 2 * rows * (usize::from(self.update) + usize::from(self.attend))) as u64
    }

    /// Image tokens of one partial sum: at least a tile; at most 32 partial sums an image. It depends on P alone, so that
    /// results do not depend on the number of threads.
    pub(crate) fn chunk(&self) -> usize {
        self.pixels().div_ceil(32).next_multiple_of(TILE)
    }

    /// Partial sums of one image.
    pub(crate) fn chunks(&self) -> usize {
        self.pixels().div_ceil(self.chunk().max(1))
    }

    /// Numbers that a partial sum takes: pooled rows, maxima and sums.
    pub(crate) fn partial_len(&self) -> usize {
        self.rows() * (WIDTH + 2)
    }

    /// Numbers that the packed A_u, V_u and A_a of one image take.
    pub(crate) fn prepared_len(&self) -> usize {
        3 * self.rows().next_multiple_of(32) * WIDTH
    }

    /// Numbers of working memory a call needs: operands made ready for products, partial sums, alignment.
    pub fn workspace_len(&self) -> usize {
        let partials = if self.attend { self.chunks() * self.partial_len() } else { 0 };
        self.batch * (self.prepared_len() + partials) + 16
    }
}

/// Operands of one pass. Those of a half that the spec leaves out are empty slices.
pub struct ImagePassOperands<'a, T: Element> {
    /// Positional encoding as tables [w + h, 256], f32 in every precision: sines (128) and cosines (128) of an angle per
    /// column x of the map, then per row y. An image token's encoding is the sines and cosines of the sum of its two angles:
    /// `sin(a + b) = sin a·cos b + cos a·sin b`, `cos(a + b) = cos a·cos b − sin a·sin b`. Reading [P, 256] from memory in
    /// every pass would cost more.
    pub pe: &'a [f32],
    /// A_u [batch, T·8, 256]
    pub update_scores: &'a [f32],
    /// c_u [batch, T·8]
    pub update_score_bias: &'a [f32],
    /// V_u [batch, T·8, 256]
    pub update_values: &'a [f32],
    /// b_u `[256]`
    pub update_bias: &'a [f32],
    /// γ and β, `[256]` each.
    pub norm: (&'a [f32], &'a [f32]),
    /// A_a [batch or 1, 8·T, 256]
    pub attend_scores: &'a [f32],
    /// [batch, P, 256]; overwritten by an update.
    pub x: &'a mut [T],
    /// [batch, 8·T, 256]
    pub pooled: &'a mut [f32],
    /// [`ImagePassSpec::workspace_len`] f32 of memory for partial sums.
    pub workspace: &'a mut [f32],
}

/// One step on the class tokens between two image passes. f32 in every precision.
///
/// 1. finish the pending token-to-image attention: `o[t] = concat_h(W_v,h·pooled[h, t] + b_v,h)`,
///    `q ← LN(q + W_o·o + b_o)`
/// 2. stages Layer0 and Layer1: `q ← LN(q + mlp(q))`; then the image-to-token attention of this layer, absorbed, with
///    k = W_k(q + pe) + b_k, v = W_v·q + b_v: `A_u[t, h] = W_q,hᵀ·k[t, h]/4`, `c_u[t, h] = b_q,h·k[t, h]/4`,
///    `V_u[t, h] = W_o,h·v[t, h]`
/// 3. stage Layer0 only: layer 1's self-attention `q ← LN(q + attn(q + pe, q + pe, q))`, 8 heads of 32
/// 4. stages Layer0 and Layer1: absorb the next token-to-image query: `A_a[h, t] = W_k,hᵀ·(W_q,h(q + pe) + b_q,h)/4`
/// 5. stage Final: `hyper = mlp3(q)` (256 → 256 → 256 → 32, ReLU between)
///
/// `pe` of a class token is the initial token itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenStepSpec {
    /// Images.
    pub batch: usize,
    /// Class tokens T.
    pub tokens: usize,
    /// Which step.
    pub stage: TokenStage,
    /// ε of the layer norms, 1e-5.
    pub eps: f32,
}

impl TokenStepSpec {
    /// Floating-point operations, two per multiply-add of the products: per row those of its linear layers and of the
    /// absorbed projections.
    pub fn flops(&self) -> u64 {
        const INNER: usize = HEADS * HEAD_DIM;
        let pending = 2 * INNER * WIDTH;
        let mlp = 2 * WIDTH * 2048;
        // q, k, v are projections, the three absorbed ones take each weight once more; the next query likewise.
        let image_to_token = 4 * INNER * WIDTH;
        let next = 2 * INNER * WIDTH;
        let self_attention = 4 * WIDTH * WIDTH + 2 * self.tokens * WIDTH;
        let row = match self.stage {
            TokenStage::Layer0 => pending + mlp + image_to_token + self_attention + next,
            TokenStage::Layer1 => pending + mlp + image_to_token + next,
            TokenStage::Final => pending + 2 * WIDTH * WIDTH + 32 * WIDTH,
        };
        (2 * self.batch * self.tokens * row) as u64
    }

    /// Bytes of memory traffic: f32 weights once, pooled rows, absorbed projections.
    pub fn bytes(&self) -> u64 {
        const INNER: usize = HEADS * HEAD_DIM;
        let (weights, blocks) = match self.stage {
            TokenStage::Layer0 => (8 * INNER * WIDTH + 2 * WIDTH * 2048 + 4 * WIDTH * WIDTH, 4),
            TokenStage::Layer1 => (8 * INNER * WIDTH + 2 * WIDTH * 2048, 4),
            TokenStage::Final => (2 * INNER * WIDTH + 2 * WIDTH * WIDTH + 32 * WIDTH, 1),
        };
        (4 * (weights + blocks * self.batch * HEADS * self.tokens * WIDTH)) as u64
    }
}

/// Which step on the class tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenStage {
    /// After the first pass: layer 0's end and layer 1's begin.
    Layer0,
    /// After the second pass: layer 1's end.
    Layer1,
    /// After the third pass: final norm and hypernetwork.
    Final,
}

/// A linear layer.
#[derive(Clone, Copy)]
pub struct LinearWeights<'a> {
    /// [n, k], packed as f32.
    pub weight: &'a PackedMatrix,
    /// `[n]`
    pub bias: &'a [f32],
}

/// A linear layer whose weight is also needed head by head: plain row-major.
#[derive(Clone, Copy)]
pub struct ProjectionWeights<'a> {
    /// [n, k]
    pub weight: &'a [f32],
    /// `[n]`
    pub bias: &'a [f32],
}

/// An attention's four projections. Cross-attention: q, k, v [128, 256], out [256, 128]; self-attention: all [256, 256].
#[derive(Clone, Copy)]
pub struct CrossAttentionWeights<'a> {
    /// W_q, b_q
    pub q: ProjectionWeights<'a>,
    /// W_k, b_k
    pub k: ProjectionWeights<'a>,
    /// W_v, b_v
    pub v: ProjectionWeights<'a>,
    /// W_o, b_o
    pub out: ProjectionWeights<'a>,
}

/// γ and β of a layer norm, `[256]` each.
pub type NormWeights<'a> = (&'a [f32], &'a [f32]);

/// Operands of one step. What a stage does not use is `None`.
pub struct TokenStepOperands<'a> {
    /// The initial tokens [T, 256]: positional encoding of the class tokens.
    pub token_pe: &'a [f32],
    /// [batch, 8·T, 256] from the image pass.
    pub pooled: &'a [f32],
    /// q before the step: [batch, T, 256], or [T, 256] shared by the batch at stage Layer0.
    pub q_in: &'a [f32],
    /// The attention to finish (its v and out projections).
    pub pending: CrossAttentionWeights<'a>,
    /// Norm after it.
    pub pending_norm: (&'a [f32], &'a [f32]),
    /// Token MLP 256 → 2048 → 256 with ReLU, and the norm after it.
    pub mlp: Option<(LinearWeights<'a>, LinearWeights<'a>, NormWeights<'a>)>,
    /// Image-to-token attention of this layer.
    pub image_to_token: Option<CrossAttentionWeights<'a>>,
    /// Self-attention of layer 1 and the norm after it (stage Layer0).
    pub self_attention: Option<(CrossAttentionWeights<'a>, NormWeights<'a>)>,
    /// The next token-to-image attention (its q and k projections).
    pub next: Option<CrossAttentionWeights<'a>>,
    /// Hypernetwork (stage Final).
    pub hyper_mlp: Option<[LinearWeights<'a>; 3]>,
    /// q after the step [batch, T, 256].
    pub q_out: &'a mut [f32],
    /// A_u [batch, T·8, 256] (empty at stage Final, like the next three).
    pub update_scores: &'a mut [f32],
    /// c_u [batch, T·8]
    pub update_score_bias: &'a mut [f32],
    /// V_u [batch, T·8, 256]
    pub update_values: &'a mut [f32],
    /// A_a [batch, 8·T, 256]
    pub attend_scores: &'a mut [f32],
    /// [batch, T, 32] (stage Final).
    pub hyper: &'a mut [f32],
}
