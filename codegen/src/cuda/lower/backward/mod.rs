//! Operators of a training step: gradients, and what a forward pass in training has of its own. One file per kind.

mod attention;
mod conv;
mod elementwise;
mod loss;
mod moves;
mod norms;
mod products;
mod squeeze_excite;
mod sums;

pub(super) use elementwise::stochastic_depth;
pub(super) use norms::batch_norm;

use super::Lowering;
use crate::cuda::kernel::{Argument, KernelText};
use crate::grad::BackwardOp;
use crate::ir::Slot;

/// `elementwise::BACKWARD_THREADS` and the like.
const THREADS: usize = 256;

/// The launches of a gradient.
pub(super) fn backward(l: &mut Lowering<'_>, op: &BackwardOp) {
    match op {
        BackwardOp::Loss(spec) => loss::loss(l, spec),
        BackwardOp::Parameter { len } => elementwise::parameter(l, *len),
        BackwardOp::GemmInput { spec, act: None } => products::input(l, spec),
        BackwardOp::GemmWeight(spec) => products::weight(l, spec),
        BackwardOp::ConvInput(spec) => conv::input(l, spec),
        BackwardOp::ConvWeight(spec) => conv::weight(l, spec),
        BackwardOp::DepthwiseInput(spec) => conv::depthwise_input(l, spec),
        BackwardOp::DepthwiseWeight(spec) => conv::depthwise_weight(l, spec),
        BackwardOp::BatchNorm(spec) => norms::batch_norm_backward(l, spec),
        BackwardOp::Act(spec) => elementwise::act(l, spec),
        BackwardOp::Repeat { len, other_len } => elementwise::repeat(l, *len, *other_len),
        BackwardOp::Scale(spec) => elementwise::scale(l, spec),
        BackwardOp::Gate(spec) => elementwise::gate(l, spec),
        BackwardOp::LayerNorm(spec) => norms::layer_norm_backward(l, spec),
        BackwardOp::SqueezeExcite(spec) => squeeze_excite::squeeze_excite(l, spec),
        BackwardOp::SumPool(spec) => moves::sum_pool(l, spec),
        BackwardOp::MaxPool(spec) => moves::max_pool(l, spec),
        BackwardOp::Bilinear(spec) => moves::bilinear(l, spec),
        BackwardOp::PixelShuffle(spec) => moves::pixel_shuffle(l, spec),
        BackwardOp::PatchGather(spec) => moves::patch_gather(l, spec),
        BackwardOp::Attention { spec, shared } => attention::attention(l, spec, *shared),
        BackwardOp::MaskProduct(spec) => attention::mask_product(l, spec),
        BackwardOp::WindowCore(spec) => attention::window_core(l, spec),
        BackwardOp::Concat(_) | BackwardOp::MaskHead(_) | BackwardOp::GemmInput { act: Some(_), .. } => {
            unreachable!("`compile_training` refuses graphs that hold it")
        }
    }
}

/// A kernel of gradients, whose numbers are of type E.
fn begin(l: &Lowering<'_>, room: &'static str, header: &'static str) -> KernelText {
    let mut text = KernelText::new(room, header);
    text.define(format!("using E = {};", l.element_name()));
    text
}

/// A launch whose FLOPs and bytes are counted with another of the same node.
fn launch_beside(l: &mut Lowering<'_>, text: &KernelText, grid: [usize; 3]) {
    l.launch(text, grid.map(|side| side as u32), 0, 0);
}

/// The launch that the node's FLOPs and bytes are counted with.
fn launch(l: &mut Lowering<'_>, text: &KernelText, grid: [usize; 3]) {
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(text, grid.map(|side| side as u32), flops, bytes);
}

/// Parameters `residual` and `d_x`: another reader's share, or null, and the node's first result.
fn result(l: &mut Lowering<'_>, text: &mut KernelText) {
    let residual = l.element(Slot::Residual);
    text.parameter("const E *residual", residual);
    text.parameter("E *d_x", l.output(0));
}

/// A parameter of the kernel, an integer.
fn integer(text: &mut KernelText, name: &str, value: usize) {
    text.parameter(format!("int {name}"), Argument::I32(value as i32));
}
