//! What each operator takes and gives: the slots it needs and how many numbers are in each.
//!
//! This is the contract between graphs and kernels in one place; the checker holds every graph against it, also those that
//! come from files.

use crate::ir::AttentionRole::{ImageToToken, Next, Pending, SelfAttention};
use crate::ir::Projection::{Key, Out, Query, Value};
use crate::ir::{AttentionRole, Op, Projection, Slot};
use segface_kernels::Epilogue;
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::gemm::Prologue;
use segface_kernels::patch_merge::MergeNorm;
use segface_kernels::token_attention::TokenStage;

/// Operands and results of an operator.
#[derive(Debug, Default)]
pub(crate) struct Signature {
    /// Slot and number of elements of every operand it must have.
    pub(crate) required: Vec<(Slot, usize)>,
    /// The same for operands it may have.
    pub(crate) optional: Vec<(Slot, usize)>,
    /// Number of elements of every result.
    pub(crate) results: Vec<usize>,
}

/// Product that saturates: sizes from files may be absurd, and an absurd size must not fit anything.
fn size(factors: &[usize]) -> usize {
    factors.iter().fold(1, |product: usize, factor| product.saturating_mul(*factor))
}

const WIDTH: usize = 256;
const HEADS: usize = 8;
const CROSS_WIDTH: usize = 128;
const MLP_WIDTH: usize = 2048;

impl Signature {
    fn takes(mut self, operands: impl IntoIterator<Item = (Slot, usize)>) -> Self {
        self.required.extend(operands);
        self
    }

    fn may_take(mut self, slot: Slot, len: usize) -> Self {
        self.optional.push((slot, len));
        self
    }

    fn gives(mut self, len: usize) -> Self {
        self.results.push(len);
        self
    }

    fn epilogue(mut self, epilogue: &Epilogue, bias: Slot, rows: usize, n: usize) -> Self {
        if epilogue.bias {
            self.required.push((bias, n));
        }
        if epilogue.scale {
            self.required.push((Slot::Scale, n));
        }
        if epilogue.norm.is_some() {
            self.required.extend([(Slot::PostNormWeight, n), (Slot::PostNormBias, n)]);
        }
        if epilogue.residual {
            self.required.push((Slot::Residual, size(&[rows, n])));
        }
        self.gives(size(&[rows, n]))
    }

    fn attention(self, role: AttentionRole, projections: &[Projection], inner: usize) -> Self {
        projections.iter().fold(self, |signature, &projection| {
            let bias = if projection == Out { WIDTH } else { inner };
            signature.takes([
                (Slot::Projection(role, projection), inner * WIDTH),
                (Slot::ProjectionBias(role, projection), bias),
            ])
        })
    }

    fn role_norm(self, role: AttentionRole) -> Self {
        self.takes([(Slot::RoleNormWeight(role), WIDTH), (Slot::RoleNormBias(role), WIDTH)])
    }
}

/// The signature of an operator, or what is impossible about it.
pub(crate) fn signature(op: &Op) -> Result<Signature, String> {
    let s = Signature::default();
    let norm = |n: usize| [(Slot::NormWeight, n), (Slot::NormBias, n)];
    Ok(match op {
        Op::Gemm(g) => {
            let s = s.takes([(Slot::X, size(&[g.rows, g.k])), (Slot::Weight, size(&[g.n, g.k]))]);
            let s = match g.prologue {
                Prologue::None => s,
                Prologue::LayerNorm { .. } => s.takes(norm(g.k)),
                Prologue::Gate { rows_per_gate } => {
                    if rows_per_gate == 0 || g.rows % rows_per_gate != 0 {
                        return Err(format!("{} rows cannot be gated {rows_per_gate} at a time", g.rows));
                    }
                    s.takes([(Slot::Gate, size(&[g.rows / rows_per_gate, g.k]))])
                }
            };
            s.epilogue(&g.epilogue, Slot::Bias, g.rows, g.n)
        }
        Op::Conv(c) => {
            let mut output = [0; 2];
            for (side, input) in output.iter_mut().zip(c.input) {
                let padded = input.saturating_add(2 * c.padding.min(1 << 16));
                if c.stride == 0 || c.kernel == 0 || padded < c.kernel {
                    return Err(format!("a {}-wide kernel does not fit a side of {input}", c.kernel));
                }
                *side = (padded - c.kernel) / c.stride + 1;
            }
            let inner = size(&[c.kernel, c.kernel, c.channels]);
            let x = size(&[c.batch, c.input[0], c.input[1], c.channels]);
            let rows = size(&[c.batch, output[0], output[1]]);
            s.takes([(Slot::X, x), (Slot::Weight, size(&[c.out_channels, inner]))]).epilogue(
                &c.epilogue,
                Slot::Bias,
                rows,
                c.out_channels,
            )
        }
        Op::Depthwise(d) => {
            if !matches!((d.kernel, d.stride), (3 | 5 | 7, 1 | 2)) || d.input.contains(&0) {
                return Err(format!("no depthwise kernel of side {} and stride {}", d.kernel, d.stride));
            }
            let [height, width] = d.input.map(|side| (side - 1) / d.stride + 1);
            let s = s
                .takes([(Slot::X, size(&[d.batch, d.input[0], d.input[1], d.channels]))])
                .takes([(Slot::Weight, size(&[d.kernel, d.kernel, d.channels]))])
                .may_take(Slot::Bias, d.channels)
                .gives(size(&[d.batch, height, width, d.channels]));
            if d.pool { s.gives(size(&[d.batch, d.channels])) } else { s }
        }
        Op::Elementwise(e) => {
            let len = size(&[e.rows, e.channels]);
            let s = s.takes([(Slot::X, len)]).gives(len);
            match e.op {
                ElementwiseOp::Act(_) => s,
                ElementwiseOp::Add { other_rows } => {
                    if other_rows == 0 || e.rows % other_rows != 0 {
                        return Err(format!("{other_rows} rows cannot be repeated to {}", e.rows));
                    }
                    s.takes([(Slot::Other, size(&[other_rows, e.channels]))])
                }
                ElementwiseOp::Scale => s.takes([(Slot::Scale, e.channels)]),
                ElementwiseOp::Gate { rows_per_gate } => {
                    if rows_per_gate == 0 || e.rows % rows_per_gate != 0 {
                        return Err(format!("{} rows cannot be gated {rows_per_gate} at a time", e.rows));
                    }
                    s.takes([(Slot::Gate, size(&[e.rows / rows_per_gate, e.channels]))])
                }
                ElementwiseOp::BatchNorm { .. } => {
                    s.takes(norm(e.channels)).takes([(Slot::Mean, e.channels), (Slot::Variance, e.channels)])
                }
            }
        }
        Op::LayerNorm(l) => {
            let len = size(&[l.rows, l.channels]);
            s.takes([(Slot::X, len)]).takes(norm(l.channels)).gives(len)
        }
        Op::SqueezeExcite(q) => {
            let (pooled, matrix) = (size(&[q.batch, q.channels]), size(&[q.squeeze, q.channels]));
            s.takes([(Slot::Sums, pooled), (Slot::Weight, matrix), (Slot::Bias, q.squeeze)])
                .takes([(Slot::Weight1, matrix), (Slot::Bias1, q.channels)])
                .gives(pooled)
        }
        Op::Mlp(m) => {
            let matrix = size(&[m.hidden, m.channels]);
            let s = s.takes([(Slot::X, size(&[m.rows, m.channels])), (Slot::Weight, matrix), (Slot::Bias, m.hidden)]);
            let s = s.takes([(Slot::Weight1, matrix)]);
            let s = if m.norm.is_some() { s.takes(norm(m.channels)) } else { s };
            s.epilogue(&m.epilogue, Slot::Bias1, m.rows, m.channels)
        }
        Op::PatchMerge(p) => {
            let normed = if p.norm == MergeNorm::Before { 4 } else { 2 };
            let pixels = size(&[p.batch, p.input[0].div_ceil(2), p.input[1].div_ceil(2)]);
            s.takes([(Slot::X, size(&[p.batch, p.input[0], p.input[1], p.channels]))])
                .takes(norm(normed * p.channels))
                .takes([(Slot::Weight, size(&[8, p.channels, p.channels]))])
                .gives(size(&[pixels, 2, p.channels]))
        }
        Op::PatchGather(p) => {
            let pixels = size(&[p.batch, p.input[0].div_ceil(2), p.input[1].div_ceil(2)]);
            s.takes([(Slot::X, size(&[p.batch, p.input[0], p.input[1], p.channels]))])
                .gives(size(&[pixels, 4, p.channels]))
        }
        Op::WindowAttention(w) => {
            window_is_sane(w.window, w.shift, w.heads, w.channels)?;
            let x = size(&[w.batch, w.input[0], w.input[1], w.channels]);
            let area = size(&[w.window, w.window]);
            s.takes([(Slot::X, x), (Slot::QkvWeight, size(&[3, w.channels, w.channels]))])
                .takes(norm(w.channels))
                .takes([(Slot::QkvBias, 3 * w.channels), (Slot::ScoreScale, w.heads)])
                .takes([(Slot::ScoreBias, size(&[w.heads, area, area]))])
                .takes([(Slot::ProjWeight, size(&[w.channels, w.channels])), (Slot::ProjBias, w.channels)])
                .gives(x)
        }
        Op::WindowGather(w) => {
            window_is_sane(w.plan.window, w.plan.shift, 1, 32)?;
            s.takes([(Slot::X, size(&[w.batch, w.plan.input[0], w.plan.input[1], w.channels]))])
                .may_take(Slot::Fill, w.channels)
                .gives(size(&[w.batch, w.plan.padded()[0], w.plan.padded()[1], w.channels]))
        }
        Op::WindowScatter(w) => {
            window_is_sane(w.plan.window, w.plan.shift, 1, 32)?;
            s.takes([(Slot::X, size(&[w.batch, w.plan.padded()[0], w.plan.padded()[1], w.channels]))]).gives(size(&[
                w.batch,
                w.plan.input[0],
                w.plan.input[1],
                w.channels,
            ]))
        }
        Op::WindowCore(w) => {
            window_is_sane(w.plan.window, w.plan.shift, w.heads, w.channels)?;
            let tokens = size(&[w.batch, w.plan.padded()[0], w.plan.padded()[1]]);
            let area = size(&[w.plan.window, w.plan.window]);
            s.takes([(Slot::X, size(&[tokens, 3, w.channels])), (Slot::ScoreScale, w.heads)])
                .takes([(Slot::ScoreBias, size(&[w.heads, area, area]))])
                .gives(size(&[tokens, w.channels]))
        }
        Op::MlpFusion(f) => {
            let tap = |i: usize| size(&[f.batch, f.taps[i][0], f.taps[i][1], f.taps[i][2]]);
            let weight = |i: usize| size(&[f.width, f.taps[i][2]]);
            if f.taps.iter().flatten().any(|side| *side == 0) {
                return Err("a tap is empty".into());
            }
            s.takes([Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().zip((0..4).map(tap)))
                .takes([Slot::Weight, Slot::Weight1, Slot::Weight2, Slot::Weight3].into_iter().zip((0..4).map(weight)))
                .takes([(Slot::Bias, f.width)])
                .gives(size(&[f.batch, f.taps[0][0], f.taps[0][1], f.width]))
        }
        Op::Attention(a) => {
            let width = size(&[a.heads, a.head_dim]);
            s.takes([(Slot::Query, size(&[a.batch, a.queries, width]))])
                .takes([(Slot::Key, size(&[a.batch, a.keys, width])), (Slot::Value, size(&[a.batch, a.keys, width]))])
                .gives(size(&[a.batch, a.queries, width]))
        }
        Op::ImagePass(p) => {
            let rows = size(&[HEADS, p.tokens]);
            let x = size(&[p.batch, p.input[0], p.input[1], WIDTH]);
            let per_image = size(&[p.batch, rows, WIDTH]);
            if !p.update && !p.attend {
                return Err("a pass that does nothing".into());
            }
            let mut s = s.takes([(Slot::X, x), (Slot::Pe, size(&[p.input[0].saturating_add(p.input[1]), WIDTH]))]);
            if p.update {
                s = s
                    .takes([(Slot::UpdateScores, per_image), (Slot::UpdateScoreBias, size(&[p.batch, rows]))])
                    .takes([(Slot::UpdateValues, per_image), (Slot::UpdateBias, WIDTH)])
                    .takes(norm(WIDTH))
                    .gives(x);
            }
            if p.attend {
                let scores = if p.shared_attend { size(&[rows, WIDTH]) } else { per_image };
                s = s.takes([(Slot::AttendScores, scores)]).gives(per_image);
            }
            s
        }
        Op::TokenStep(t) => {
            let rows = size(&[HEADS, t.tokens]);
            let (all, shared) = (size(&[t.batch, t.tokens, WIDTH]), size(&[t.tokens, WIDTH]));
            let per_image = size(&[t.batch, rows, WIDTH]);
            let q = if t.stage == TokenStage::Layer0 { shared } else { all };
            let s = s
                .takes([(Slot::X, q), (Slot::Pe, shared), (Slot::Pooled, per_image)])
                .attention(Pending, &[Value, Out], CROSS_WIDTH)
                .role_norm(Pending)
                .gives(all);
            if t.stage == TokenStage::Final {
                return Ok(s
                    .takes([(Slot::Weight, WIDTH * WIDTH), (Slot::Bias, WIDTH)])
                    .takes([(Slot::Weight1, WIDTH * WIDTH), (Slot::Bias1, WIDTH)])
                    .takes([(Slot::Weight2, 32 * WIDTH), (Slot::Bias2, 32)])
                    .gives(size(&[t.batch, t.tokens, 32])));
            }
            let s = s
                .takes([(Slot::Weight, MLP_WIDTH * WIDTH), (Slot::Bias, MLP_WIDTH)])
                .takes([(Slot::Weight1, MLP_WIDTH * WIDTH), (Slot::Bias1, WIDTH)])
                .takes([(Slot::PostNormWeight, WIDTH), (Slot::PostNormBias, WIDTH)])
                .attention(ImageToToken, &[Query, Key, Value, Out], CROSS_WIDTH)
                .attention(Next, &[Query, Key], CROSS_WIDTH)
                .gives(per_image)
                .gives(size(&[t.batch, rows]))
                .gives(per_image)
                .gives(per_image);
            match t.stage {
                TokenStage::Layer0 => {
                    s.attention(SelfAttention, &[Query, Key, Value, Out], WIDTH).role_norm(SelfAttention)
                }
                _ => s,
            }
        }
        Op::MaskHead(m) => {
            let pixels = size(&[m.batch, m.input[0], m.input[1]]);
            let s = s
                .takes([(Slot::X, size(&[pixels, WIDTH])), (Slot::Weight, 4 * 64 * WIDTH), (Slot::Bias, 64)])
                .takes(norm(64))
                .takes([(Slot::Weight1, 4 * 32 * 64), (Slot::Bias1, 32)])
                .takes([(Slot::Hyper, size(&[m.batch, m.classes, 32]))]);
            match m.output {
                segface_kernels::mask_head::MaskHeadOutput::Logits => s.gives(size(&[pixels, 16, m.classes])),
                segface_kernels::mask_head::MaskHeadOutput::Labels => s.gives(size(&[pixels, 16])),
            }
        }
        Op::MaskProduct(m) => s
            .takes([(Slot::X, size(&[m.batch, m.pixels, 32])), (Slot::Hyper, size(&[m.batch, m.classes, 32]))])
            .gives(size(&[m.batch, m.pixels, m.classes])),
        Op::ArgMax(a) => s.takes([(Slot::X, size(&[a.rows, a.classes]))]).gives(a.rows),
        Op::Bilinear(b) => s.takes([(Slot::X, size(&[b.batch, b.input[0], b.input[1], b.channels]))]).gives(size(&[
            b.batch,
            b.output[0],
            b.output[1],
            b.channels,
        ])),
        Op::Concat(c) => s
            .takes([Slot::X, Slot::X1, Slot::X2, Slot::X3].into_iter().zip(c.channels.map(|n| size(&[c.rows, n]))))
            .gives(size(&[c.rows, c.channels.iter().fold(0, |sum: usize, n| sum.saturating_add(*n))])),
        Op::PixelShuffle(p) => {
            let len = size(&[p.batch, p.input[0], p.input[1], 4, p.channels]);
            s.takes([(Slot::X, len)]).gives(len)
        }
        Op::MaxPool(p) => {
            if p.input.contains(&0) {
                return Err("an empty map cannot be pooled".into());
            }
            let [height, width] = p.input.map(|side| (side - 1) / 2 + 1);
            s.takes([(Slot::X, size(&[p.batch, p.input[0], p.input[1], p.channels]))])
                .gives(size(&[p.batch, height, width, p.channels]))
        }
        Op::SumPool(p) => {
            s.takes([(Slot::X, size(&[p.batch, p.pixels, p.channels]))]).gives(size(&[p.batch, p.channels]))
        }
        Op::Convert(c) => s.takes([(Slot::X, c.len)]).gives(c.len),
        Op::BatchNorm(b) => {
            let len = size(&[b.rows, b.channels]);
            s.takes([(Slot::X, len)])
                .takes(norm(b.channels))
                .takes([(Slot::Mean, b.channels), (Slot::Variance, b.channels)])
                .gives(len)
                .gives(b.channels)
                .gives(b.channels)
        }
        Op::StochasticDepth(d) => {
            let len = size(&[d.batch, d.len]);
            s.takes([(Slot::X, len)]).gives(len)
        }
        Op::Backward(op) => {
            let crate::grad::Operands { required, mut optional, results } = op.operands();
            optional.extend(results.first().map(|len| (Slot::Residual, *len)));
            Signature { required, optional, results }
        }
    })
}

fn window_is_sane(window: usize, shift: [usize; 2], heads: usize, channels: usize) -> Result<(), String> {
    if !matches!(window, 7 | 8) || shift.iter().any(|s| *s >= window) || channels != size(&[32, heads]) {
        return Err(format!("window {window}, shift {shift:?}, {heads} heads and {channels} channels do not fit"));
    }
    Ok(())
}
