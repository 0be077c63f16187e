//! The graph: typed values and the operators between them.
//!
//! One graph serves every level. A model is built from plain operators (a convolution, a batch norm, a gather of windows);
//! passes rewrite it until it is a list of fused kernels. Every operator, plain or fused, is a kernel of
//! `segface-kernels` with its spec, so a graph can be run after any pass.

use segface_kernels as kernels;
use segface_kernels::DType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Index of a value in [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueId(pub usize);

/// One tensor of the graph. Activations are [batch, height, width, channels] or [batch, tokens, channels].
#[derive(Debug, Clone)]
pub struct Value {
    /// What it is called in print: the published module's name where there is one.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: DType,
    /// Where it comes from.
    pub source: Source,
}

impl Value {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }
}

/// Where a value comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Given at run time.
    Input,
    /// Made from tensors of the checkpoint; not loaded yet.
    Weight(crate::weights::Recipe),
    /// Known: row-major f32.
    Constant(Arc<[f32]>),
    /// Computed by a node.
    Node,
}

/// What an operand means to its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Slot {
    /// The operator's (first) data operand.
    X,
    /// Taps 1, 2, 3 (or concat operands 1, 2, 3); tap 0 is [`Slot::X`].
    X1,
    /// See [`Slot::X1`].
    X2,
    /// See [`Slot::X1`].
    X3,
    /// Second operand of an addition.
    Other,
    /// Attention's queries, keys and values.
    Query,
    /// See [`Slot::Query`].
    Key,
    /// See [`Slot::Query`].
    Value,
    /// Weight of the (first) product.
    Weight,
    /// Bias of the (first) product.
    Bias,
    /// Weight of the second product (mlp, mask head, squeeze-excite; folded fusion: tap 1).
    Weight1,
    /// Bias of the second product.
    Bias1,
    /// Folded fusion: weight of tap 2; hypernetwork: third layer.
    Weight2,
    /// Hypernetwork: bias of the third layer.
    Bias2,
    /// Folded fusion: weight of tap 3.
    Weight3,
    /// γ of the norm before the product.
    NormWeight,
    /// β of the norm before the product.
    NormBias,
    /// γ of the norm behind the product.
    PostNormWeight,
    /// β of the norm behind the product.
    PostNormBias,
    /// Running mean of a batch norm.
    Mean,
    /// Running variance of a batch norm.
    Variance,
    /// Factor per channel (layer scale).
    Scale,
    /// Factor per image and channel (squeeze-excite gate).
    Gate,
    /// Residual added at the end; backward operators: the share of the gradient that is there already.
    Residual,
    /// Backward operators: gradient of the forward operator's result.
    Gradient,
    /// Row written where a window gather finds padding (zeros if absent).
    Fill,
    /// Channel sums of squeeze-excite.
    Sums,
    /// Window attention: factor per head on the scores.
    ScoreScale,
    /// Window attention: bias [heads, query, key].
    ScoreBias,
    /// Window attention: qkv and projection.
    QkvWeight,
    /// See [`Slot::QkvWeight`].
    QkvBias,
    /// See [`Slot::QkvWeight`].
    ProjWeight,
    /// See [`Slot::QkvWeight`].
    ProjBias,
    /// Mask head and mask product: [batch, T, 32].
    Hyper,
    /// Positional encoding of the image tokens, or of the class tokens.
    Pe,
    /// Image pass, see `segface_kernels::token_attention`.
    UpdateScores,
    /// See [`Slot::UpdateScores`].
    UpdateScoreBias,
    /// See [`Slot::UpdateScores`].
    UpdateValues,
    /// See [`Slot::UpdateScores`].
    UpdateBias,
    /// See [`Slot::UpdateScores`].
    AttendScores,
    /// See [`Slot::UpdateScores`].
    Pooled,
    /// Token step: a projection of one of its attentions.
    Projection(AttentionRole, Projection),
    /// Token step: bias of a projection.
    ProjectionBias(AttentionRole, Projection),
    /// Token step: γ of the norm behind that attention.
    RoleNormWeight(AttentionRole),
    /// Token step: β of the norm behind that attention.
    RoleNormBias(AttentionRole),
}

/// Which attention of a token step an operand belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AttentionRole {
    /// The token-to-image attention whose sums the pass left.
    Pending,
    /// Image-to-token.
    ImageToToken,
    /// Self-attention of the next layer.
    SelfAttention,
    /// The next token-to-image attention.
    Next,
}

/// Which projection of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Projection {
    /// W_q
    Query,
    /// W_k
    Key,
    /// W_v
    Value,
    /// W_o
    Out,
}

/// An operator: which kernel, with which shapes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Product per row: linear layers, 1×1 convolutions.
    Gemm(kernels::gemm::GemmSpec),
    /// Dense convolution.
    Conv(kernels::conv::ConvSpec),
    /// Depthwise convolution. Outputs: map, and channel sums if it pools.
    Depthwise(kernels::depthwise::DepthwiseSpec),
    /// Activation, addition, factor, gate, batch norm on their own.
    Elementwise(kernels::elementwise::ElementwiseSpec),
    /// Layer norm on its own.
    LayerNorm(kernels::layer_norm::LayerNormSpec),
    /// Gate of squeeze-excite.
    SqueezeExcite(kernels::squeeze_excite::SqueezeExciteSpec),
    /// Two linear layers.
    Mlp(kernels::mlp::MlpSpec),
    /// Swin's downsampling, fused.
    PatchMerge(kernels::patch_merge::PatchMergeSpec),
    /// Its gather alone.
    PatchGather(kernels::patch_merge::PatchGatherSpec),
    /// A Swin attention branch, fused, in place.
    WindowAttention(kernels::window_attention::WindowAttentionSpec),
    /// Map to windows.
    WindowGather(kernels::window_attention::WindowGatherSpec),
    /// Attention inside windows.
    WindowCore(kernels::window_attention::WindowCoreSpec),
    /// Windows to map.
    WindowScatter(kernels::window_attention::WindowScatterSpec),
    /// Folded MLP fusion.
    MlpFusion(kernels::mlp_fusion::MlpFusionSpec),
    /// Multi-head attention, un-fused.
    Attention(kernels::attention::AttentionSpec),
    /// Pass over the image tokens. Outputs: x if it updates, pooled if it attends.
    ImagePass(kernels::token_attention::ImagePassSpec),
    /// Step on the class tokens. Outputs: q, then A_u, c_u, V_u, A_a, or at the final stage hyper.
    TokenStep(kernels::token_attention::TokenStepSpec),
    /// Upscaling, hypernetwork product, argmax.
    MaskHead(kernels::mask_head::MaskHeadSpec),
    /// Hypernetwork product alone.
    MaskProduct(kernels::mask_head::MaskProductSpec),
    /// Argmax alone.
    ArgMax(kernels::mask_head::ArgMaxSpec),
    /// Bilinear resize.
    Bilinear(kernels::resample::BilinearSpec),
    /// Channel concat.
    Concat(kernels::resample::ConcatSpec),
    /// Space from channels.
    PixelShuffle(kernels::resample::PixelShuffleSpec),
    /// 3×3 stride-2 max pool.
    MaxPool(kernels::resample::MaxPoolSpec),
    /// Sum over an image.
    SumPool(kernels::resample::SumPoolSpec),
    /// Batch norm in training. Outputs: map, mean and 1/√(var + ε) of the batch.
    BatchNorm(kernels::batch_norm::BatchNormSpec),
    /// Residual branch dropped at random.
    StochasticDepth(kernels::stochastic_depth::StochasticDepthSpec),
    /// Gradients.
    Backward(crate::grad::BackwardOp),
    /// Change of element type, where an un-fused plan crosses from activations to what stays f32.
    Convert(kernels::elementwise::ConvertSpec),
}

/// One operator at work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// What it is called in print: the published module's name where there is one.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<(Slot, ValueId)>,
    /// What it writes.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// The operand in `slot`, if there is one.
    pub fn input(&self, slot: Slot) -> Option<ValueId> {
        self.inputs.iter().find(|(s, _)| *s == slot).map(|(_, v)| *v)
    }
}

/// What a graph gives to whoever runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Output {
    /// Logits, f32 [batch, 4h, 4w, T].
    Logits,
    /// Class ids, u8 [batch, 4h, 4w].
    Labels,
    /// Tap 0..4 of the backbone, [batch, h, w, C].
    Stage(usize),
    /// The fused map before the decoder, [batch, h, w, 256].
    Fused,
    /// Class tokens after the decoder's final norm, [batch, T, 256].
    Tokens,
}

/// A network, or what passes have made of it. Nodes are in an order in which they can be run.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Every value, also those no longer used.
    pub values: Vec<Value>,
    /// Every node, in execution order.
    pub nodes: Vec<Node>,
    /// What is given out.
    pub outputs: Vec<(Output, ValueId)>,
}
