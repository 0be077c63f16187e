//! Operators of training: from a graph's named slots to a kernel's operands.

use super::store::Sums;
use crate::Error;
use crate::engine::EngineError;
use crate::engine::call::Call;
use segface_codegen::grad::BackwardOp;
use segface_codegen::ir::{Op, Slot};
use segface_kernels as k;
use segface_kernels::attention::backward::AttentionBackwardOperands;
use segface_kernels::batch_norm::BatchNormOperands;
use segface_kernels::batch_norm::backward::BatchNormBackwardOperands;
use segface_kernels::conv::backward::{ConvInputOperands, ConvWeightOperands};
use segface_kernels::depthwise::backward::{DepthwiseInputOperands, DepthwiseWeightOperands};
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::epilogue::{EpilogueOperands, Residual};
use segface_kernels::gemm::backward::GemmWeightOperands;
use segface_kernels::gemm::plain::{PlainOperands, PlainWeight, SlopeAt};
use segface_kernels::gemm::{GemmSpec, PackedMatrix, Prologue};
use segface_kernels::image::FaceWarp;
use segface_kernels::layer_norm::backward::{LayerNormBackwardOperands, LayerNormParameters};
use segface_kernels::loss::{LabelError, Loss, LossOperands, LossSpec};
use segface_kernels::mask_head::backward::{
    MaskHeadBackwardOperands, MaskHeadParameters, MaskProductBackwardOperands, mask_product_backward,
};
use segface_kernels::mask_head::{MaskHeadOperands, MaskHeadSpec};
use segface_kernels::squeeze_excite::backward::SqueezeExciteBackwardOperands;
use segface_kernels::stochastic_depth::Draw;
use segface_kernels::window_attention::backward::WindowCoreBackwardOperands;
use segface_kernels::{Context, DType, Element, Epilogue, Gradient};

/// What belongs to one micro-batch.
pub(super) struct Step<'a> {
    pub(super) draw: Draw,
    pub(super) labels: &'a [u8],
    /// One per image where images are warped.
    pub(super) warps: &'a [FaceWarp],
    /// Width and height of the network's frame.
    pub(super) size: (usize, usize),
    /// Factor on all gradients.
    pub(super) scale: f32,
    pub(super) loss: Option<Loss>,
}

/// Calls the node's kernel.
pub(super) fn run<T: Element>(
    call: &Call<'_, '_>,
    context: &mut Context,
    sums: &mut Sums<'_>,
    step: &mut Step<'_>,
) -> Result<(), Error> {
    let node = call.node;
    match &node.op {
        Op::BatchNorm(spec) => {
            let running = (sums.statistic(node, Slot::Mean), sums.statistic(node, Slot::Variance));
            let operands = BatchNormOperands::<T> {
                x: call.operand(Slot::X),
                weight: call.operand(Slot::NormWeight),
                bias: call.operand(Slot::NormBias),
                running: running.0.zip(running.1),
                mean: call.output(1),
                scale: call.output(2),
                out: call.output(0),
            };
            k::batch_norm::cpu::batch_norm(context, spec, operands);
        }
        Op::Gemm(spec) => {
            let operands = PlainOperands::<T> {
                x: call.operand(Slot::X),
                weight: PlainWeight::Rows(call.operand(Slot::Weight)),
                epilogue: call.epilogue(&spec.epilogue, Slot::Bias),
                slope: None,
                out: call.output(0),
            };
            k::gemm::plain::gemm_plain(context, spec, operands);
        }
        Op::MaskHead(spec) => mask_head::<T>(call, context, spec),
        Op::StochasticDepth(spec) => {
            let out = Gradient::overwrite(call.output(0));
            k::stochastic_depth::cpu::stochastic_depth::<T>(context, spec, step.draw, call.operand(Slot::X), out);
        }
        Op::Backward(BackwardOp::Loss(spec)) => {
            let loss = loss(context, spec, step, call.operand(Slot::X), call.output(0));
            step.loss = Some(loss.map_err(|error| EngineError::Labels { reason: error.to_string() })?);
        }
        Op::Backward(op) => backward::<T>(call, context, sums, op),
        _ => call.run::<T>(context),
    }
    Ok(())
}

/// The loss and its gradient. Where images were warped, logits go back into the image's frame first, and the gradient the other way.
fn loss(
    context: &mut Context,
    spec: &LossSpec,
    step: &Step<'_>,
    logits: &[f32],
    d_logits: &mut [f32],
) -> Result<Loss, LabelError> {
    let operands = |logits, d_logits| LossOperands { logits, labels: step.labels, scale: step.scale, d_logits };
    if step.warps.is_empty() {
        return k::loss::cpu::loss(context, spec, operands(logits, Some(d_logits)));
    }
    let len = spec.pixels * spec.classes;
    let (mut image, mut d_image) = (vec![0.0; logits.len()], vec![0.0; logits.len()]);
    for ((warp, logits), image) in step.warps.iter().zip(logits.chunks_exact(len)).zip(image.chunks_exact_mut(len)) {
        warp.unwarp(context, logits, step.size, spec.classes, image);
    }
    let loss = k::loss::cpu::loss(context, spec, operands(&image, Some(&mut d_image)))?;
    for ((warp, d_image), d_logits) in
        step.warps.iter().zip(d_image.chunks_exact(len)).zip(d_logits.chunks_exact_mut(len))
    {
        warp.unwarp_backward(context, d_image, step.size, spec.classes, Gradient::overwrite(d_logits));
    }
    Ok(loss)
}

/// Gradients of one forward operator.
fn backward<T: Element>(call: &Call<'_, '_>, context: &mut Context, sums: &mut Sums<'_>, op: &BackwardOp) {
    let node = call.node;
    // The share that is there already lies in the first result, or is copied there.
    match call.memory.graph.values.get(node.outputs.first().map_or(usize::MAX, |output| output.0)) {
        Some(value) if value.dtype == DType::F32 => call.prepare_in_place::<f32>(),
        _ => call.prepare_in_place::<T>(),
    }
    let accumulate = node.input(Slot::Residual).is_some();
    let first = || Gradient { values: call.output::<T>(0), accumulate };
    // Of gates and sums.
    let first_sums = || Gradient { values: call.output::<f32>(0), accumulate };
    let nth = |index: usize| Gradient::overwrite(call.output::<T>(index));
    let d_out = || call.operand::<T>(Slot::Gradient);
    match op {
        BackwardOp::Loss(_) => unreachable!("the loss is run by `run`"),
        BackwardOp::Parameter { len } => {
            let mut target = sums.target(node, Slot::Weight, *len);
            if let Some(sum) = target.slice() {
                sum.iter_mut().zip(call.operand::<f32>(Slot::Gradient)).for_each(|(sum, d)| *sum += d);
            }
            sums.finish(context, [target]);
        }
        BackwardOp::GemmInput { spec, act } => {
            let epilogue = Epilogue { residual: accumulate, ..Epilogue::default() };
            let spec = GemmSpec { rows: spec.rows, n: spec.k, k: spec.n, prologue: Prologue::None, epilogue };
            let residual = if accumulate { Residual::InPlace } else { Residual::None };
            let operands = PlainOperands::<T> {
                x: d_out(),
                weight: PlainWeight::Columns(call.operand(Slot::Weight)),
                epilogue: EpilogueOperands { residual, ..EpilogueOperands::default() },
                slope: act.map(|act| {
                    let at = call.unless_replaced(Slot::X);
                    (act, at.map_or(SlopeAt::InPlace, SlopeAt::From))
                }),
                out: call.output(0),
            };
            k::gemm::plain::gemm_plain(context, &spec, operands);
        }
        BackwardOp::GemmWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.n * spec.k);
            let mut bias = sums.target(node, Slot::Bias, spec.n);
            let operands = GemmWeightOperands::<T> {
                x: call.operand(Slot::X),
                d_out: d_out(),
                d_weight: weight.slice(),
                d_bias: bias.slice(),
            };
            k::gemm::backward::gemm_weight(context, spec.rows, spec.n, spec.k, operands);
            sums.finish(context, [weight, bias]);
        }
        BackwardOp::ConvInput(spec) => {
            let operands = ConvInputOperands::<T> { d_out: d_out(), weight: call.operand(Slot::Weight), d_x: first() };
            k::conv::backward::conv_input(context, spec, operands);
        }
        BackwardOp::ConvWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.out_channels * spec.depth());
            let mut bias = sums.target(node, Slot::Bias, spec.out_channels);
            let operands = ConvWeightOperands::<T> {
                x: call.operand(Slot::X),
                d_out: d_out(),
                d_weight: weight.slice(),
                d_bias: bias.slice(),
            };
            k::conv::backward::conv_weight(context, spec, operands);
            sums.finish(context, [weight, bias]);
        }
        BackwardOp::DepthwiseInput(spec) => {
            let operands =
                DepthwiseInputOperands::<T> { d_out: d_out(), weight: call.operand(Slot::Weight), d_x: first() };
            k::depthwise::backward::depthwise_input(context, spec, operands);
        }
        BackwardOp::DepthwiseWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.kernel * spec.kernel * spec.channels);
            let mut bias = sums.target(node, Slot::Bias, spec.channels);
            if let Some(d_weight) = weight.slice() {
                let operands = DepthwiseWeightOperands::<T> {
                    x: call.operand(Slot::X),
                    d_out: d_out(),
                    d_weight,
                    d_bias: bias.slice(),
                };
                k::depthwise::backward::depthwise_weight(context, spec, operands);
            }
            sums.finish(context, [weight, bias]);
        }
        BackwardOp::BatchNorm(spec) => {
            let mut targets = sums.targets(node, [(Slot::NormWeight, spec.channels), (Slot::NormBias, spec.channels)]);
            let [weight, bias] = &mut targets;
            let operands = BatchNormBackwardOperands::<T> {
                x: call.operand(Slot::X),
                weight: call.operand(Slot::NormWeight),
                bias: call.operand(Slot::NormBias),
                mean: call.operand(Slot::Mean),
                scale: call.operand(Slot::Scale),
                d_out: d_out(),
                d_x: first(),
                d_parameters: weight.slice().zip(bias.slice()),
            };
            k::batch_norm::backward::batch_norm_backward(context, spec, operands);
            sums.finish(context, targets);
        }
        BackwardOp::Act(spec) => {
            let ElementwiseOp::Act(act) = spec.op else { unreachable!("an activation's gradient") };
            k::elementwise::backward::act_backward::<T>(context, act, call.operand(Slot::X), d_out(), first());
        }
        BackwardOp::Repeat { other_len, .. } => {
            k::elementwise::backward::sum_repeats::<T>(context, *other_len, d_out(), first());
        }
        BackwardOp::Scale(spec) => {
            let mut target = sums.target(node, Slot::Scale, spec.channels);
            if let Some(d_factor) = target.slice() {
                let sizes = [1, spec.rows, spec.channels];
                let x = call.operand::<T>(Slot::X);
                k::elementwise::backward::factor_backward(context, sizes, x, d_out(), Gradient::add_to(d_factor));
            }
            sums.finish(context, [target]);
        }
        BackwardOp::Gate(spec) => {
            let ElementwiseOp::Gate { rows_per_gate } = spec.op else { unreachable!("a gate's gradient") };
            let sizes = [spec.rows / rows_per_gate, rows_per_gate, spec.channels];
            let x = call.operand::<T>(Slot::X);
            k::elementwise::backward::factor_backward(context, sizes, x, d_out(), first_sums());
        }
        BackwardOp::LayerNorm(spec) => {
            let mut targets = sums.targets(node, [(Slot::NormWeight, spec.channels), (Slot::NormBias, spec.channels)]);
            let [weight, bias] = &mut targets;
            let parameters = weight.slice().zip(bias.slice());
            let operands = LayerNormBackwardOperands::<T> {
                x: call.operand(Slot::X),
                weight: call.operand(Slot::NormWeight),
                d_out: d_out(),
                d_x: first(),
                d_parameters: parameters.map(|(d_weight, d_bias)| LayerNormParameters { d_weight, d_bias }),
            };
            k::layer_norm::backward::layer_norm_backward(context, spec, operands);
            sums.finish(context, targets);
        }
        BackwardOp::SqueezeExcite(spec) => {
            let matrix = spec.channels * spec.squeeze;
            let mut targets = sums.targets(
                node,
                [
                    (Slot::Weight, matrix),
                    (Slot::Bias, spec.squeeze),
                    (Slot::Weight1, matrix),
                    (Slot::Bias1, spec.channels),
                ],
            );
            let [weight, bias, weight1, bias1] = &mut targets;
            let parameters = match (weight.slice(), bias.slice(), weight1.slice(), bias1.slice()) {
                (Some(weight), Some(bias), Some(weight1), Some(bias1)) => Some([weight, bias, weight1, bias1]),
                _ => None,
            };
            let operands = SqueezeExciteBackwardOperands {
                sums: call.operand(Slot::Sums),
                squeeze_weight: call.operand(Slot::Weight),
                squeeze_bias: call.operand(Slot::Bias),
                excite_weight: call.operand(Slot::Weight1),
                excite_bias: call.operand(Slot::Bias1),
                d_gate: call.operand(Slot::Gradient),
                d_sums: first_sums(),
                d_parameters: parameters,
            };
            k::squeeze_excite::backward::squeeze_excite_backward(context, spec, operands);
            sums.finish(context, targets);
        }
        BackwardOp::SumPool(spec) => {
            k::resample::backward::sum_pool_backward::<T>(context, spec, call.operand(Slot::Gradient), first());
        }
        BackwardOp::MaxPool(spec) => {
            let (x, out) = (call.operand::<T>(Slot::X), call.operand(Slot::Other));
            k::resample::backward::max_pool_backward(context, spec, x, out, d_out(), first());
        }
        BackwardOp::Bilinear(spec) => k::resample::backward::bilinear_backward::<T>(context, spec, d_out(), first()),
        BackwardOp::Concat(spec) => {
            let d_x = [first(), nth(1), nth(2), nth(3)].map(Some);
            k::resample::backward::concat_backward::<T>(context, spec, d_out(), d_x);
        }
        BackwardOp::PixelShuffle(spec) => {
            k::resample::backward::pixel_shuffle_backward::<T>(context, spec, d_out(), first());
        }
        BackwardOp::Attention { spec, .. } => {
            let operands = AttentionBackwardOperands::<T> {
                q: call.operand(Slot::Query),
                k: call.operand(Slot::Key),
                v: call.operand(Slot::Value),
                d_out: d_out(),
                d_q: first(),
                d_k: nth(1),
                d_v: nth(2),
            };
            k::attention::backward::attention_backward(context, spec, operands);
        }
        BackwardOp::MaskHead(spec) => mask_head_backward::<T>(call, context, sums, spec),
        BackwardOp::MaskProduct(spec) => {
            let operands = MaskProductBackwardOperands::<T> {
                u: call.operand(Slot::X),
                hyper: call.operand(Slot::Hyper),
                d_logits: call.operand(Slot::Gradient),
                d_u: first(),
                d_hyper: Gradient::overwrite(call.output(1)),
            };
            mask_product_backward(context, spec, operands);
        }
        BackwardOp::PatchGather(spec) => {
            k::patch_merge::backward::patch_gather_backward::<T>(context, spec, d_out(), first());
        }
        BackwardOp::WindowCore(spec) => {
            let area = spec.plan.window * spec.plan.window;
            let mut bias = sums.target(node, Slot::ScoreBias, spec.heads * area * area);
            let mut scale = sums.target(node, Slot::ScoreScale, spec.heads);
            let operands = WindowCoreBackwardOperands::<T> {
                qkv: call.operand(Slot::X),
                score_scale: call.operand(Slot::ScoreScale),
                bias: call.operand(Slot::ScoreBias),
                d_out: d_out(),
                d_qkv: first(),
                d_bias: bias.slice(),
                d_score_scale: scale.slice(),
            };
            k::window_attention::backward::window_core_backward(context, spec, operands);
            sums.finish(context, [bias, scale]);
        }
    }
}

/// Slots of the mask head's weights with their sizes [n, k].
const MASK_HEAD_WEIGHTS: [(Slot, [usize; 2]); 2] = [(Slot::Weight, [256, 256]), (Slot::Weight1, [128, 64])];

/// Logits by the fused mask head.
fn mask_head<T: Element>(call: &Call<'_, '_>, context: &mut Context, spec: &MaskHeadSpec) {
    let isa = context.isa();
    let weights = MASK_HEAD_WEIGHTS.map(|(slot, [n, k])| PackedMatrix::pack::<T>(isa, n, k, call.operand(slot)));
    let operands = MaskHeadOperands::<T> {
        x: call.operand(Slot::X),
        weight1: &weights[0],
        bias1: call.operand(Slot::Bias),
        norm: (call.operand(Slot::NormWeight), call.operand(Slot::NormBias)),
        weight2: &weights[1],
        bias2: call.operand(Slot::Bias1),
        hyper: call.operand(Slot::Hyper),
        logits: Some(call.output(0)),
        labels: None,
    };
    k::mask_head::cpu::mask_head(context, spec, operands);
}

/// Its gradients.
fn mask_head_backward<T: Element>(
    call: &Call<'_, '_>,
    context: &mut Context,
    sums: &mut Sums<'_>,
    spec: &MaskHeadSpec,
) {
    let (isa, node) = (context.isa(), call.node);
    let weights = MASK_HEAD_WEIGHTS.map(|(slot, [n, k])| PackedMatrix::pack::<T>(isa, n, k, call.operand(slot)));
    let transposed = MASK_HEAD_WEIGHTS.map(|(slot, [n, k])| {
        let mut turned = PackedMatrix::empty();
        turned.repack::<T>(isa, k, n, call.operand(slot), true);
        turned
    });
    let slots = [
        (Slot::Weight, 256 * 256),
        (Slot::Bias, 64),
        (Slot::NormWeight, 64),
        (Slot::NormBias, 64),
        (Slot::Weight1, 128 * 64),
        (Slot::Bias1, 32),
    ];
    let mut targets = sums.all_targets(node, slots);
    let [weight1, bias1, norm_weight, norm_bias, weight2, bias2] =
        targets.each_mut().map(|target| target.slice().expect("each of `all_targets` has memory"));
    let operands = MaskHeadBackwardOperands::<T> {
        x: call.operand(Slot::X),
        weight1: &weights[0],
        bias1: call.operand(Slot::Bias),
        norm: (call.operand(Slot::NormWeight), call.operand(Slot::NormBias)),
        weight2: &weights[1],
        bias2: call.operand(Slot::Bias1),
        transposed: transposed.each_ref(),
        hyper: call.operand(Slot::Hyper),
        d_logits: call.operand(Slot::Gradient),
        d_x: Gradient { values: call.output(0), accumulate: node.input(Slot::Residual).is_some() },
        d_hyper: Gradient::overwrite(call.output(1)),
        d_parameters: MaskHeadParameters { weight1, bias1, norm_weight, norm_bias, weight2, bias2 },
    };
    k::mask_head::backward::mask_head_backward(context, spec, operands);
    sums.finish(context, targets);
}
