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
use segface_kernels::gemm::{GemmOperands, GemmSpec, Prologue, PrologueOperands};
use segface_kernels::layer_norm::backward::{LayerNormBackwardOperands, LayerNormParameters};
use segface_kernels::image::FaceWarp;
use segface_kernels::loss::{LabelError, Loss, LossOperands, LossSpec};
use segface_kernels::mask_head::backward::MaskProductBackwardOperands;
use segface_kernels::squeeze_excite::backward::SqueezeExciteBackwardOperands;
use segface_kernels::stochastic_depth::Draw;
use segface_kernels::window_attention::backward::WindowCoreBackwardOperands;
use segface_kernels::{Context, Epilogue, Gradient};

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
pub(super) fn run(
    call: &Call<'_, '_>,
    context: &mut Context,
    sums: &mut Sums<'_>,
    step: &mut Step<'_>,
) -> Result<(), Error> {
    let node = call.node;
    match &node.op {
        Op::BatchNorm(spec) => {
            let running = (sums.statistic(node, Slot::Mean), sums.statistic(node, Slot::Variance));
            let operands = BatchNormOperands::<f32> {
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
        Op::StochasticDepth(spec) => {
            let out = Gradient::overwrite(call.output(0));
            k::stochastic_depth::cpu::stochastic_depth::<f32>(context, spec, step.draw, call.operand(Slot::X), out);
        }
        Op::Backward(BackwardOp::Loss(spec)) => {
            let loss = loss(context, spec, step, call.operand(Slot::X), call.output(0));
            step.loss = Some(loss.map_err(|error| EngineError::Labels { reason: error.to_string() })?);
        }
        Op::Backward(op) => backward(call, context, sums, op),
        _ => call.run::<f32>(context),
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
fn backward(call: &Call<'_, '_>, context: &mut Context, sums: &mut Sums<'_>, op: &BackwardOp) {
    let node = call.node;
    // The share that is there already lies in the first result, or is copied there.
    call.prepare_in_place::<f32>();
    let accumulate = node.input(Slot::Residual).is_some();
    let first = || Gradient { values: call.output::<f32>(0), accumulate };
    let nth = |index: usize| Gradient::overwrite(call.output::<f32>(index));
    let d_out = || call.operand::<f32>(Slot::Gradient);
    match op {
        BackwardOp::Loss(_) => unreachable!("the loss is run by `run`"),
        BackwardOp::Parameter { len } => {
            let mut target = sums.target(node, Slot::Weight, *len);
            if let Some(sum) = target.slice() {
                sum.iter_mut().zip(d_out()).for_each(|(sum, d)| *sum += d);
            }
            sums.finish([target]);
        }
        BackwardOp::GemmInput(spec) => {
            let epilogue = Epilogue { residual: accumulate, ..Epilogue::default() };
            let spec = GemmSpec { rows: spec.rows, n: spec.k, k: spec.n, prologue: Prologue::None, epilogue };
            let residual = if accumulate { Residual::InPlace } else { Residual::None };
            let operands = GemmOperands::<f32> {
                x: d_out(),
                prologue: PrologueOperands::None,
                weight: call.packed(Slot::Weight),
                epilogue: EpilogueOperands { residual, ..EpilogueOperands::default() },
                out: call.output(0),
            };
            k::gemm::cpu::gemm(context, &spec, operands);
        }
        BackwardOp::GemmWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.n * spec.k);
            let mut bias = sums.target(node, Slot::Bias, spec.n);
            let operands = GemmWeightOperands::<f32> {
                x: call.operand(Slot::X),
                d_out: d_out(),
                d_weight: weight.slice(),
                d_bias: bias.slice(),
            };
            k::gemm::backward::gemm_weight(context, spec.rows, spec.n, spec.k, operands);
            sums.finish([weight, bias]);
        }
        BackwardOp::ConvInput(spec) => {
            let operands =
                ConvInputOperands::<f32> { d_out: d_out(), weight: call.operand(Slot::Weight), d_x: first() };
            k::conv::backward::conv_input(context, spec, operands);
        }
        BackwardOp::ConvWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.out_channels * spec.depth());
            let mut bias = sums.target(node, Slot::Bias, spec.out_channels);
            let operands = ConvWeightOperands::<f32> {
                x: call.operand(Slot::X),
                d_out: d_out(),
                d_weight: weight.slice(),
                d_bias: bias.slice(),
            };
            k::conv::backward::conv_weight(context, spec, operands);
            sums.finish([weight, bias]);
        }
        BackwardOp::DepthwiseInput(spec) => {
            let operands =
                DepthwiseInputOperands::<f32> { d_out: d_out(), weight: call.operand(Slot::Weight), d_x: first() };
            k::depthwise::backward::depthwise_input(context, spec, operands);
        }
        BackwardOp::DepthwiseWeight(spec) => {
            let mut weight = sums.target(node, Slot::Weight, spec.kernel * spec.kernel * spec.channels);
            let mut bias = sums.target(node, Slot::Bias, spec.channels);
            if let Some(d_weight) = weight.slice() {
                let operands = DepthwiseWeightOperands::<f32> {
                    x: call.operand(Slot::X),
                    d_out: d_out(),
                    d_weight,
                    d_bias: bias.slice(),
                };
                k::depthwise::backward::depthwise_weight(context, spec, operands);
            }
            sums.finish([weight, bias]);
        }
        BackwardOp::BatchNorm(spec) => {
            let mut targets =
                sums.targets(node, [(Slot::NormWeight, spec.channels), (Slot::NormBias, spec.channels)]);
            let [weight, bias] = &mut targets;
            let operands = BatchNormBackwardOperands::<f32> {
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
            sums.finish(targets);
        }
        BackwardOp::Act(spec) => {
            let ElementwiseOp::Act(act) = spec.op else { unreachable!("an activation's gradient") };
            k::elementwise::backward::act_backward::<f32>(context, act, call.operand(Slot::X), d_out(), first());
        }
        BackwardOp::Repeat { other_len, .. } => {
            k::elementwise::backward::sum_repeats::<f32>(context, *other_len, d_out(), first());
        }
        BackwardOp::Scale(spec) => {
            let mut target = sums.target(node, Slot::Scale, spec.channels);
            if let Some(d_factor) = target.slice() {
                let sizes = [1, spec.rows, spec.channels];
                let x = call.operand::<f32>(Slot::X);
                k::elementwise::backward::factor_backward(context, sizes, x, d_out(), Gradient::add_to(d_factor));
            }
            sums.finish([target]);
        }
        BackwardOp::Gate(spec) => {
            let ElementwiseOp::Gate { rows_per_gate } = spec.op else { unreachable!("a gate's gradient") };
            let sizes = [spec.rows / rows_per_gate, rows_per_gate, spec.channels];
            let x = call.operand::<f32>(Slot::X);
            k::elementwise::backward::factor_backward(context, sizes, x, d_out(), first());
        }
        BackwardOp::LayerNorm(spec) => {
            let mut targets =
                sums.targets(node, [(Slot::NormWeight, spec.channels), (Slot::NormBias, spec.channels)]);
            let [weight, bias] = &mut targets;
            let parameters = weight.slice().zip(bias.slice());
            let operands = LayerNormBackwardOperands::<f32> {
                x: call.operand(Slot::X),
                weight: call.operand(Slot::NormWeight),
                d_out: d_out(),
                d_x: first(),
                d_parameters: parameters.map(|(d_weight, d_bias)| LayerNormParameters { d_weight, d_bias }),
            };
            k::layer_norm::backward::layer_norm_backward(context, spec, operands);
            sums.finish(targets);
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
                d_gate: d_out(),
                d_sums: first(),
                d_parameters: parameters,
            };
            k::squeeze_excite::backward::squeeze_excite_backward(context, spec, operands);
            sums.finish(targets);
        }
        BackwardOp::SumPool(spec) => k::resample::backward::sum_pool_backward::<f32>(context, spec, d_out(), first()),
        BackwardOp::MaxPool(spec) => {
            let (x, out) = (call.operand::<f32>(Slot::X), call.operand(Slot::Other));
            k::resample::backward::max_pool_backward(context, spec, x, out, d_out(), first());
        }
        BackwardOp::Bilinear(spec) => k::resample::backward::bilinear_backward::<f32>(context, spec, d_out(), first()),
        BackwardOp::Concat(spec) => {
            let d_x = [first(), nth(1), nth(2), nth(3)].map(Some);
            k::resample::backward::concat_backward::<f32>(context, spec, d_out(), d_x);
        }
        BackwardOp::PixelShuffle(spec) => {
            k::resample::backward::pixel_shuffle_backward::<f32>(context, spec, d_out(), first());
        }
        BackwardOp::Attention { spec, .. } => {
            let operands = AttentionBackwardOperands::<f32> {
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
        BackwardOp::MaskProduct(spec) => {
            let operands = MaskProductBackwardOperands::<f32> {
                u: call.operand(Slot::X),
                hyper: call.operand(Slot::Hyper),
                d_logits: d_out(),
                d_u: first(),
                d_hyper: nth(1),
            };
            k::mask_head::backward::mask_product_backward(context, spec, operands);
        }
        BackwardOp::PatchGather(spec) => {
            k::patch_merge::backward::patch_gather_backward::<f32>(context, spec, d_out(), first());
        }
        BackwardOp::WindowCore(spec) => {
            let area = spec.plan.window * spec.plan.window;
            let mut bias = sums.target(node, Slot::ScoreBias, spec.heads * area * area);
            let mut scale = sums.target(node, Slot::ScoreScale, spec.heads);
            let operands = WindowCoreBackwardOperands::<f32> {
                qkv: call.operand(Slot::X),
                score_scale: call.operand(Slot::ScoreScale),
                bias: call.operand(Slot::ScoreBias),
                d_out: d_out(),
                d_qkv: first(),
                d_bias: bias.slice(),
                d_score_scale: scale.slice(),
            };
            k::window_attention::backward::window_core_backward(context, spec, operands);
            sums.finish([bias, scale]);
        }
    }
}
