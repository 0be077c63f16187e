//! From nodes to launches: one file per kernel folder.

mod attention;
mod backward;
mod conv;
mod depthwise;
mod elementwise;
mod gemm;
mod ladder;
mod layer_norm;
mod mask_head;
mod mlp;
mod mlp_fusion;
mod patch_merge;
mod resample;
mod squeeze_excite;
mod token_attention;
mod window_attention;

pub use ladder::Rung;

use super::kernel::{Argument, Detail, Kernel, KernelText, Launch};
use super::program::Form;
use super::tile::{Choice, Problem, Tile, Tuning};
use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use crate::plan::Precision;
use segface_kernels::{Act, DType};

/// Alignment of what lies in a workspace: a whole memory transaction.
const WORKSPACE_ALIGNMENT: usize = 128;

/// A program in the making.
pub(crate) struct Lowering<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) precision: Precision,
    /// The rung of kernels that have one, the top if none.
    rung: Option<Rung>,
    /// Whether the node's kernels are those of networks without tensor cores.
    plain: bool,
    /// Whether images were warped and logits go back before the loss sees them.
    pub(crate) warps: bool,
    /// How tiles are chosen.
    pub(crate) tuning: &'g Tuning,
    node: usize,
    parts: Parts,
}

/// What lowering leaves.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) launches: Vec<Launch>,
    pub(crate) constants: Vec<(ValueId, Form)>,
    /// Bytes of each node's workspace.
    pub(crate) workspaces: Vec<usize>,
    pub(crate) counters: usize,
    pub(crate) choices: Vec<Choice>,
}

impl<'g> Lowering<'g> {
    pub(crate) fn new(graph: &'g Graph, precision: Precision, rung: Option<Rung>, tuning: &'g Tuning) -> Self {
        let parts = Parts { workspaces: vec![0; graph.nodes.len()], ..Parts::default() };
        Self { graph, precision, rung, plain: false, warps: false, tuning, node: 0, parts }
    }

    /// The tile for a product that the next launch makes.
    pub(crate) fn tile(&mut self, problem: Problem) -> Tile {
        let tile = self.tuning.choose(&problem);
        self.parts.choices.push(Choice { launch: self.parts.launches.len(), problem, tile });
        tile
    }

    /// Bytes of a number of the activations.
    pub(crate) fn size(&self) -> usize {
        self.precision.dtype().size()
    }

    /// Says more about the launch that was added last.
    pub(crate) fn detail(&mut self, of: impl FnOnce(&mut Detail)) {
        if let Some(launch) = self.parts.launches.last_mut() {
            of(&mut launch.detail);
        }
    }

    /// Launches so far.
    pub(crate) fn launches(&self) -> usize {
        self.parts.launches.len()
    }

    /// Constants so far.
    pub(crate) fn constants(&self) -> Vec<(ValueId, Form)> {
        self.parts.constants.clone()
    }

    pub(crate) fn finish(self) -> Parts {
        self.parts
    }

    /// Adds the launches of node `index`.
    pub(crate) fn lower(&mut self, index: usize) {
        self.node = index;
        let op = &self.graph.nodes[index].op;
        self.plain = self.rung.is_some_and(|rung| ladder::is_plain(rung, op));
        if self.rung.is_some_and(|rung| ladder::lower(self, rung)) {
            return;
        }
        match op {
            Op::Gemm(spec) => gemm::gemm(self, spec),
            Op::LayerNorm(spec) => layer_norm::layer_norm(self, spec),
            Op::Mlp(spec) => mlp::mlp(self, spec),
            Op::PatchMerge(spec) => patch_merge::patch_merge(self, spec),
            Op::PatchGather(spec) => patch_merge::gather(self, spec),
            Op::WindowAttention(spec) => window_attention::window_attention(self, spec),
            Op::WindowGather(spec) => window_attention::gather(self, spec),
            Op::WindowScatter(spec) => window_attention::scatter(self, spec),
            Op::WindowCore(spec) => window_attention::core(self, spec),
            Op::Attention(spec) => attention::attention(self, spec),
            Op::MlpFusion(spec) => mlp_fusion::mlp_fusion(self, spec),
            Op::ImagePass(spec) => token_attention::image_pass(self, spec),
            Op::TokenStep(spec) => token_attention::token_step(self, spec),
            Op::MaskHead(spec) => mask_head::mask_head(self, spec),
            Op::MaskProduct(spec) => mask_head::mask_product(self, spec),
            Op::ArgMax(spec) => mask_head::arg_max(self, spec),
            Op::Conv(spec) => conv::conv(self, spec),
            Op::Depthwise(spec) => depthwise::depthwise(self, spec),
            Op::SqueezeExcite(spec) => squeeze_excite::squeeze_excite(self, spec),
            Op::Elementwise(spec) => elementwise::elementwise(self, spec),
            Op::Convert(spec) => elementwise::convert(self, spec),
            Op::Bilinear(spec) => resample::bilinear(self, spec),
            Op::Concat(spec) => resample::concat(self, spec),
            Op::PixelShuffle(spec) => resample::pixel_shuffle(self, spec),
            Op::MaxPool(spec) => resample::max_pool(self, spec),
            Op::SumPool(spec) => resample::sum_pool(self, spec),
            Op::BatchNorm(spec) => backward::batch_norm(self, spec),
            Op::StochasticDepth(spec) => backward::stochastic_depth(self, spec),
            Op::Backward(op) => backward::backward(self, op),
        }
    }

    /// The node being lowered.
    pub(crate) fn node(&self) -> &'g Node {
        &self.graph.nodes[self.node]
    }

    /// The element type's name in `cuda/number.cuh`.
    pub(crate) fn element_name(&self) -> &'static str {
        element_type(self.precision.dtype())
    }

    /// Whether kernels do without tensor cores; [`Lowering::fragment_name`] says so, and what lies beside `Plain` must be included.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// How products are computed, a name in `cuda/number.cuh` or `Plain` of one.
    pub(crate) fn fragment_name(&self) -> String {
        let name = self.precision.fragment().name();
        // In exact f32 there are no tensor cores anyway.
        if self.plain && self.precision != Precision::F32 { format!("Plain<{name}>") } else { name.into() }
    }

    /// The operand in `slot` in the element type of activations.
    pub(crate) fn element(&mut self, slot: Slot) -> Argument {
        self.operand(slot, Form::Element)
    }

    /// The operand in `slot` as f32.
    pub(crate) fn f32(&mut self, slot: Slot) -> Argument {
        self.operand(slot, Form::F32)
    }

    /// The weight [n, k] in `slot` in fragment order.
    pub(crate) fn packed(&mut self, slot: Slot, n: usize, k: usize) -> Argument {
        self.operand(slot, Form::Packed { n, k })
    }

    /// Window attention's bias in `slot` as fragments of scores.
    pub(crate) fn position_bias(&mut self, slot: Slot, heads: usize, area: usize) -> Argument {
        self.operand(slot, Form::PositionBias { heads, area })
    }

    /// Whether the operand in `slot` is known when the network is compiled.
    pub(crate) fn is_constant(&self, slot: Slot) -> bool {
        let value = self.node().input(slot).map(|value| &self.graph.values[value.0]);
        value.is_some_and(|value| matches!(value.source, Source::Constant(_)))
    }

    /// The constant in `slot` in that form.
    pub(crate) fn constant(&mut self, slot: Slot, form: Form) -> Argument {
        self.operand(slot, form)
    }

    /// The sums of gradients of what is in `slot`; null where the node has nothing there.
    pub(crate) fn gradient(&self, slot: Slot) -> Argument {
        self.node().input(slot).map_or(Argument::Null, Argument::Gradient)
    }

    /// The operand in `slot`, or null where the node has none.
    fn operand(&mut self, slot: Slot, form: Form) -> Argument {
        let Some(value) = self.node().input(slot) else { return Argument::Null };
        match self.graph.values[value.0].source {
            Source::Constant(_) | Source::Weight(_) => self.constant_of(value, form),
            _ => Argument::Value(value),
        }
    }

    /// The value, which is known before the run, in that form.
    pub(crate) fn constant_of(&mut self, value: ValueId, form: Form) -> Argument {
        let known = self.parts.constants.iter().position(|constant| *constant == (value, form));
        Argument::Constant(known.unwrap_or_else(|| {
            self.parts.constants.push((value, form));
            self.parts.constants.len() - 1
        }))
    }

    /// Output `index` of the node.
    pub(crate) fn output(&self, index: usize) -> Argument {
        Argument::Value(self.node().outputs[index])
    }

    /// More working memory for this node's launches.
    pub(crate) fn workspace(&mut self, bytes: usize) -> Argument {
        let size = &mut self.parts.workspaces[self.node];
        let offset = size.next_multiple_of(WORKSPACE_ALIGNMENT);
        *size = offset + bytes;
        Argument::Workspace { node: self.node, offset }
    }

    /// `count` counters of this node's own.
    pub(crate) fn counters(&mut self, count: usize) -> Argument {
        let first = self.parts.counters;
        self.parts.counters += count;
        Argument::Counters { first }
    }

    /// Adds a launch.
    pub(crate) fn launch(&mut self, text: &KernelText, grid: [u32; 3], flops: u64, bytes: u64) {
        self.add_launch(text, grid, false, flops, bytes);
    }

    /// Adds a launch whose blocks wait for one another.
    pub(crate) fn launch_cooperative(&mut self, text: &KernelText, grid: [u32; 3], flops: u64, bytes: u64) {
        self.add_launch(text, grid, true, flops, bytes);
    }

    fn add_launch(&mut self, text: &KernelText, grid: [u32; 3], cooperative: bool, flops: u64, bytes: u64) {
        let kernel = text.finish(self.plain);
        let known = self.parts.kernels.iter().position(|k| k.name == kernel.name);
        let kernel = known.unwrap_or_else(|| {
            self.parts.kernels.push(kernel);
            self.parts.kernels.len() - 1
        });
        let arguments = text.arguments.clone();
        let detail =
            Detail { tensor: self.rung.is_none() && multiplies_matrices(&self.node().op), ..Detail::default() };
        self.parts.launches.push(Launch {
            kernel,
            node: self.node,
            grid,
            cooperative,
            arguments,
            flops,
            bytes,
            detail,
        });
    }
}

/// Whether the operator's kernel uses matrix instructions (but in exact f32, where it has none).
fn multiplies_matrices(op: &Op) -> bool {
    matches!(
        op,
        Op::Gemm(_)
            | Op::Mlp(_)
            | Op::PatchMerge(_)
            | Op::WindowAttention(_)
            | Op::MlpFusion(_)
            | Op::ImagePass(_)
            | Op::MaskHead(_)
            | Op::Conv(_)
    )
}

/// An activation's name in `cuda/activation.cuh`.
pub(crate) fn act(act: Act) -> &'static str {
    match act {
        Act::Identity => "Act::Identity",
        Act::Relu => "Act::Relu",
        Act::Gelu => "Act::Gelu",
        Act::Silu => "Act::Silu",
        Act::HardSwish => "Act::HardSwish",
        Act::HardSigmoid => "Act::HardSigmoid",
        Act::Sigmoid => "Act::Sigmoid",
    }
}

/// A number as a C++ float literal.
pub(crate) fn literal(value: f32) -> String {
    format!("{value:e}f")
}

/// An element type's name in `cuda/number.cuh`.
pub(crate) fn element_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F16 => "f16",
        DType::Bf16 => "bf16",
        DType::U8 => "u8",
    }
}

/// Numbers a thread moves at a time where rows have `channels` numbers: 16 bytes, or one where rows are not whole chunks.
pub(crate) fn vector_width(dtype: DType, channels: &[usize]) -> usize {
    let chunk = 16 / dtype.size();
    if channels.iter().all(|channels| channels.is_multiple_of(chunk)) { chunk } else { 1 }
}
