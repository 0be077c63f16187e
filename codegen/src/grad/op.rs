//! The operators of a backward pass.

use crate::ir::Slot;
use segface_kernels::attention::AttentionSpec;
use segface_kernels::batch_norm::BatchNormSpec;
use segface_kernels::conv::ConvSpec;
use segface_kernels::depthwise::DepthwiseSpec;
use segface_kernels::elementwise::ElementwiseSpec;
use segface_kernels::gemm::GemmSpec;
use segface_kernels::layer_norm::LayerNormSpec;
use segface_kernels::loss::LossSpec;
use segface_kernels::mask_head::{MaskHeadSpec, MaskProductSpec};
use segface_kernels::patch_merge::PatchGatherSpec;
use segface_kernels::resample::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec};
use segface_kernels::squeeze_excite::SqueezeExciteSpec;
use segface_kernels::window_attention::WindowCoreSpec;
use segface_kernels::{Act, DType};
use serde::{Deserialize, Serialize};

/// Gradients of one forward operator, named after it; specs are the forward operator's.
///
/// [`Slot::Gradient`] is the gradient of the forward operator's result. The results are gradients of operands that are computed; the first
/// starts from [`Slot::Residual`] where that is given (another reader's share). The gradient of an operand that is a parameter is no value
/// of the graph: it is added to the executor's sums of gradients, for every parameter that stands among the operands and is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum BackwardOp {
    /// The loss itself: logits → their gradient. Labels come from the executor.
    Loss(LossSpec),
    /// Adds the gradient to that of the parameter in [`Slot::Weight`], which is an operand of operators that compute (class tokens).
    Parameter {
        /// Elements.
        len: usize,
    },
    /// Gradient of x.
    GemmInput {
        /// The forward operator.
        spec: GemmSpec,
        /// An activation before it whose operand is in [`Slot::X`]: then the gradient is that operand's.
        act: Option<Act>,
    },
    /// Gradients of weight and bias.
    GemmWeight(GemmSpec),
    /// Gradient of x.
    ConvInput(ConvSpec),
    /// Gradients of weight and bias.
    ConvWeight(ConvSpec),
    /// Gradient of x.
    DepthwiseInput(DepthwiseSpec),
    /// Gradients of weight and bias.
    DepthwiseWeight(DepthwiseSpec),
    /// Gradients of x, γ and β; [`Slot::Mean`] and [`Slot::Scale`] are what the forward pass kept.
    BatchNorm(BatchNormSpec),
    /// Gradient of an activation's x.
    Act(ElementwiseSpec),
    /// Gradient of an addition's other operand that was repeated.
    Repeat {
        /// Elements of the result's gradient.
        len: usize,
        /// Elements of the operand.
        other_len: usize,
    },
    /// Gradient of a factor per channel.
    Scale(ElementwiseSpec),
    /// Gradient of a gate.
    Gate(ElementwiseSpec),
    /// Gradients of x, γ and β.
    LayerNorm(LayerNormSpec),
    /// Gradients of sums, weights and biases.
    SqueezeExcite(SqueezeExciteSpec),
    /// Gradient of x.
    SumPool(SumPoolSpec),
    /// Gradient of x; [`Slot::Other`] is the forward result.
    MaxPool(MaxPoolSpec),
    /// Gradient of x.
    Bilinear(BilinearSpec),
    /// Gradients of all four operands.
    Concat(ConcatSpec),
    /// Gradient of x.
    PixelShuffle(PixelShuffleSpec),
    /// Gradients of q, k and v.
    Attention {
        /// The forward operator.
        spec: AttentionSpec,
        /// Which of q, k and v are shared by the batch.
        shared: [bool; 3],
    },
    /// Gradients of image tokens and filters, and of all parameters.
    MaskHead(MaskHeadSpec),
    /// Gradients of map and filters.
    MaskProduct(MaskProductSpec),
    /// Gradient of x.
    PatchGather(PatchGatherSpec),
    /// Gradients of qkv, score scale and score bias.
    WindowCore(WindowCoreSpec),
}

/// What an operator of a backward pass takes and gives.
pub(crate) struct Operands {
    /// Slot and number of elements.
    pub(crate) required: Vec<(Slot, usize)>,
    /// Those it may have: parameters that are trained.
    pub(crate) optional: Vec<(Slot, usize)>,
    pub(crate) results: Vec<usize>,
}

impl BackwardOp {
    /// Its name: the kernel's.
    pub fn name(&self) -> &'static str {
        match self {
            BackwardOp::Loss(_) => "loss",
            BackwardOp::Parameter { .. } => "parameter_gradient",
            BackwardOp::GemmInput { .. } => "gemm_input",
            BackwardOp::GemmWeight(_) => "gemm_weight",
            BackwardOp::ConvInput(_) => "conv_input",
            BackwardOp::ConvWeight(_) => "conv_weight",
            BackwardOp::DepthwiseInput(_) => "depthwise_input",
            BackwardOp::DepthwiseWeight(_) => "depthwise_weight",
            BackwardOp::BatchNorm(_) => "batch_norm_backward",
            BackwardOp::Act(_) => "act_backward",
            BackwardOp::Repeat { .. } => "sum_repeats",
            BackwardOp::Scale(_) => "scale_backward",
            BackwardOp::Gate(_) => "gate_backward",
            BackwardOp::LayerNorm(_) => "layer_norm_backward",
            BackwardOp::SqueezeExcite(_) => "squeeze_excite_backward",
            BackwardOp::SumPool(_) => "sum_pool_backward",
            BackwardOp::MaxPool(_) => "max_pool_backward",
            BackwardOp::Bilinear(_) => "bilinear_backward",
            BackwardOp::Concat(_) => "concat_backward",
            BackwardOp::PixelShuffle(_) => "pixel_shuffle_backward",
            BackwardOp::Attention { .. } => "attention_backward",
            BackwardOp::MaskHead(_) => "mask_head_backward",
            BackwardOp::MaskProduct(_) => "mask_product_backward",
            BackwardOp::PatchGather(_) => "patch_gather_backward",
            BackwardOp::WindowCore(_) => "window_core_backward",
        }
    }

    /// Element type of the operand in `slot`, as `passes::lower_precision` has it.
    pub(crate) fn operand_type(&self, slot: Slot, activation: DType) -> Option<DType> {
        use Slot::{Gradient, Hyper, Key, Mean, Other, Query, Residual, Scale, Sums, Value, X};
        match (self, slot) {
            (BackwardOp::Loss(_), X) | (BackwardOp::Parameter { .. }, Gradient) => Some(DType::F32),
            (BackwardOp::SqueezeExcite(_), Sums | Gradient | Residual) => Some(DType::F32),
            (BackwardOp::SumPool(_) | BackwardOp::MaskHead(_) | BackwardOp::MaskProduct(_), Gradient) => {
                Some(DType::F32)
            }
            (BackwardOp::Gate(_), Residual) | (_, Mean | Scale | Hyper) => Some(DType::F32),
            (_, X | Other | Query | Key | Value | Gradient | Residual) => Some(activation),
            _ => None,
        }
    }

    /// Element type of result `index`: gradients of f32 values are f32.
    pub(crate) fn result_type(&self, index: usize, activation: DType) -> DType {
        match self {
            BackwardOp::Loss(_) | BackwardOp::Gate(_) | BackwardOp::SqueezeExcite(_) => DType::F32,
            BackwardOp::MaskHead(_) | BackwardOp::MaskProduct(_) if index == 1 => DType::F32,
            _ => activation,
        }
    }

    /// Its operands and results. A residual is one more operand, as long as the first result.
    pub(crate) fn operands(&self) -> Operands {
        use Slot::{Bias, Bias1, Gradient, Hyper, Key, Mean, NormBias, NormWeight, Other, Query, Scale, ScoreBias};
        use Slot::{ScoreScale, Sums, Value, Weight, Weight1, X};
        let side = |input: usize| input.saturating_sub(1) / 2 + 1;
        let of = |required: &[(Slot, usize)], optional: &[(Slot, usize)], results: &[usize]| Operands {
            required: required.to_vec(),
            optional: optional.to_vec(),
            results: results.to_vec(),
        };
        match *self {
            BackwardOp::Loss(l) => {
                let len = l.batch * l.pixels * l.classes;
                of(&[(X, len)], &[], &[len])
            }
            BackwardOp::Parameter { len } => of(&[(Gradient, len), (Weight, len)], &[], &[]),
            BackwardOp::GemmInput { spec: g, act } => {
                let mut required = vec![(Gradient, g.rows * g.n), (Weight, g.n * g.k)];
                required.extend(act.map(|_| (X, g.rows * g.k)));
                of(&required, &[], &[g.rows * g.k])
            }
            BackwardOp::GemmWeight(g) => {
                of(&[(X, g.rows * g.k), (Gradient, g.rows * g.n)], &[(Weight, g.n * g.k), (Bias, g.n)], &[])
            }
            BackwardOp::ConvInput(c) | BackwardOp::ConvWeight(c) => {
                let x = c.batch * c.input[0] * c.input[1] * c.channels;
                let (out, weight) = (c.rows() * c.out_channels, c.depth() * c.out_channels);
                if let BackwardOp::ConvInput(_) = self {
                    of(&[(Gradient, out), (Weight, weight)], &[], &[x])
                } else {
                    of(&[(X, x), (Gradient, out)], &[(Weight, weight), (Bias, c.out_channels)], &[])
                }
            }
            BackwardOp::DepthwiseInput(d) | BackwardOp::DepthwiseWeight(d) => {
                let x = d.batch * d.input[0] * d.input[1] * d.channels;
                let [height, width] = d.output();
                let (out, weight) = (d.batch * height * width * d.channels, d.kernel * d.kernel * d.channels);
                if let BackwardOp::DepthwiseInput(_) = self {
                    of(&[(Gradient, out), (Weight, weight)], &[], &[x])
                } else {
                    of(&[(X, x), (Gradient, out), (Weight, weight)], &[(Bias, d.channels)], &[])
                }
            }
            BackwardOp::BatchNorm(b) => {
                let len = b.rows * b.channels;
                let channels = [NormWeight, NormBias, Mean, Scale].map(|slot| (slot, b.channels));
                of(&[&[(X, len), (Gradient, len)][..], &channels].concat(), &[], &[len])
            }
            BackwardOp::Act(e) => of(&[(X, e.len()), (Gradient, e.len())], &[], &[e.len()]),
            BackwardOp::Repeat { len, other_len } => of(&[(Gradient, len)], &[], &[other_len]),
            BackwardOp::Scale(e) => of(&[(X, e.len()), (Gradient, e.len()), (Scale, e.channels)], &[], &[]),
            BackwardOp::Gate(e) => {
                let gates = match e.op {
                    segface_kernels::elementwise::ElementwiseOp::Gate { rows_per_gate } => {
                        e.rows / rows_per_gate.max(1) * e.channels
                    }
                    _ => 0,
                };
                of(&[(X, e.len()), (Gradient, e.len())], &[], &[gates])
            }
            BackwardOp::LayerNorm(l) => {
                let len = l.rows * l.channels;
                of(&[(X, len), (Gradient, len), (NormWeight, l.channels), (NormBias, l.channels)], &[], &[len])
            }
            BackwardOp::SqueezeExcite(q) => {
                let (gates, matrix) = (q.batch * q.channels, q.channels * q.squeeze);
                let weights = [(Weight, matrix), (Bias, q.squeeze), (Weight1, matrix), (Bias1, q.channels)];
                of(&[&[(Sums, gates), (Gradient, gates)][..], &weights].concat(), &[], &[gates])
            }
            BackwardOp::SumPool(p) => of(&[(Gradient, p.batch * p.channels)], &[], &[p.batch * p.pixels * p.channels]),
            BackwardOp::MaxPool(p) => {
                let x = p.batch * p.input[0] * p.input[1] * p.channels;
                let out = p.batch * side(p.input[0]) * side(p.input[1]) * p.channels;
                of(&[(X, x), (Other, out), (Gradient, out)], &[], &[x])
            }
            BackwardOp::Bilinear(b) => of(
                &[(Gradient, b.batch * b.output[0] * b.output[1] * b.channels)],
                &[],
                &[b.batch * b.input[0] * b.input[1] * b.channels],
            ),
            BackwardOp::Concat(c) => {
                of(&[(Gradient, c.rows * c.channels.iter().sum::<usize>())], &[], &c.channels.map(|n| c.rows * n))
            }
            BackwardOp::PixelShuffle(p) => {
                let len = p.batch * p.input[0] * p.input[1] * 4 * p.channels;
                of(&[(Gradient, len)], &[], &[len])
            }
            BackwardOp::Attention { spec, shared } => {
                let width = spec.heads * spec.head_dim;
                let len = |tokens: usize, shared: bool| if shared { 1 } else { spec.batch } * tokens * width;
                let lens = [len(spec.queries, shared[0]), len(spec.keys, shared[1]), len(spec.keys, shared[2])];
                let out = spec.batch * spec.queries * width;
                of(&[(Query, lens[0]), (Key, lens[1]), (Value, lens[2]), (Gradient, out)], &[], &lens)
            }
            BackwardOp::MaskHead(m) => {
                let tokens = m.batch * m.input[0] * m.input[1];
                let (x, hyper) = (tokens * 256, m.batch * m.classes * 32);
                of(
                    &[
                        (X, x),
                        (Weight, 256 * 256),
                        (Bias, 64),
                        (NormWeight, 64),
                        (NormBias, 64),
                        (Weight1, 128 * 64),
                        (Bias1, 32),
                        (Hyper, hyper),
                        (Gradient, 16 * tokens * m.classes),
                    ],
                    &[],
                    &[x, hyper],
                )
            }
            BackwardOp::MaskProduct(m) => {
                let (u, hyper) = (m.batch * m.pixels * 32, m.batch * m.classes * 32);
                of(&[(X, u), (Hyper, hyper), (Gradient, m.batch * m.pixels * m.classes)], &[], &[u, hyper])
            }
            BackwardOp::PatchGather(p) => {
                let out = p.batch * p.input[0].div_ceil(2) * p.input[1].div_ceil(2) * 4 * p.channels;
                of(&[(Gradient, out)], &[], &[p.batch * p.input[0] * p.input[1] * p.channels])
            }
            BackwardOp::WindowCore(w) => {
                let tokens = w.batch * w.plan.padded()[0] * w.plan.padded()[1];
                let area = w.plan.window * w.plan.window;
                of(
                    &[
                        (X, tokens * 3 * w.channels),
                        (ScoreScale, w.heads),
                        (ScoreBias, w.heads * area * area),
                        (Gradient, tokens * w.channels),
                    ],
                    &[],
                    &[tokens * 3 * w.channels],
                )
            }
        }
    }
}
