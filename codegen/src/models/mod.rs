//! One short file per backbone and one for the decoder: the published networks as plain graphs.

mod convnext;
mod decoder;
mod efficientnet;
mod mobilenet;
mod resnet;
mod swin;

use crate::builder::{Builder, Kernel};
use crate::ir::{Graph, Output, ValueId};
use crate::{Backbone, CodegenError, ModelSpec, TensorDecl};
use segface_kernels::Act;
use segface_kernels::window_attention::WindowKind;
use swin::Swin;

/// Largest side of an input, in pixels: beyond it sizes in bytes could overflow, and no machine has the memory.
const MAX_SIDE: usize = 16_384;

/// The published network for `batch` images of height×width pixels: input [batch, height, width, 3], normalised; every
/// [`Output`] but the labels is given out.
///
/// # Errors
/// If the published code, too, cannot take that size.
pub fn build(model: &ModelSpec, batch: usize, height: usize, width: usize) -> Result<Graph, CodegenError> {
    check_size(model, batch, height, width)?;
    let (mut b, input) = Builder::new(batch, height, width);
    let taps = taps(&mut b, model.backbone, input);
    for (stage, tap) in taps.into_iter().enumerate() {
        b.give_out(Output::Stage(stage), tap);
    }
    let fused = decoder::mlp_fusion(&mut b, taps);
    b.give_out(Output::Fused, fused);
    decoder::decode(&mut b, model.variant, fused);
    Ok(b.finish())
}

/// The same as a graph to be trained: MLP fusion is folded already, into matrices that are recipes.
pub(crate) fn build_to_train(
    model: &ModelSpec,
    batch: usize,
    height: usize,
    width: usize,
) -> Result<Graph, CodegenError> {
    check_size(model, batch, height, width)?;
    let (mut b, input) = Builder::new(batch, height, width);
    let taps = taps(&mut b, model.backbone, input);
    for (stage, tap) in taps.into_iter().enumerate() {
        b.give_out(Output::Stage(stage), tap);
    }
    let fused = decoder::folded_mlp_fusion(&mut b, taps);
    b.give_out(Output::Fused, fused);
    decoder::decode(&mut b, model.variant, fused);
    Ok(b.finish())
}

fn taps(b: &mut Builder, backbone: Backbone, input: ValueId) -> [ValueId; 4] {
    match backbone {
        Backbone::SwinBase => Swin { kind: WindowKind::V1, width: 128, depths: [2, 2, 18, 2] }.taps(b, input),
        Backbone::SwinV2Base => Swin { kind: WindowKind::V2, width: 128, depths: [2, 2, 18, 2] }.taps(b, input),
        Backbone::SwinV2Small => Swin { kind: WindowKind::V2, width: 96, depths: [2, 2, 18, 2] }.taps(b, input),
        Backbone::SwinV2Tiny => Swin { kind: WindowKind::V2, width: 96, depths: [2, 2, 6, 2] }.taps(b, input),
        Backbone::ConvNextBase => convnext::taps(b, input, 128, [3, 3, 27, 3]),
        Backbone::ConvNextSmall => convnext::taps(b, input, 96, [3, 3, 27, 3]),
        Backbone::ConvNextTiny => convnext::taps(b, input, 96, [3, 3, 9, 3]),
        Backbone::ResNet => resnet::taps(b, input),
        Backbone::MobileNet => mobilenet::taps(b, input),
        Backbone::EfficientNet => efficientnet::taps(b, input),
    }
}

/// The smallest side for which no tap is empty. Padded convolutions and patch merging round up, ConvNeXt's unpadded
/// convolutions round down.
pub fn least_side(backbone: Backbone) -> usize {
    match backbone {
        Backbone::SwinBase | Backbone::SwinV2Base | Backbone::SwinV2Small | Backbone::SwinV2Tiny => 4,
        Backbone::ConvNextBase | Backbone::ConvNextSmall | Backbone::ConvNextTiny => 32,
        Backbone::ResNet | Backbone::MobileNet | Backbone::EfficientNet => 1,
    }
}

fn check_size(model: &ModelSpec, batch: usize, height: usize, width: usize) -> Result<(), CodegenError> {
    let least = least_side(model.backbone);
    let reason = if batch == 0 {
        "a run has at least one image".into()
    } else if height < least || width < least {
        format!("its feature maps would be empty; sides must be at least {least} pixels")
    } else if height > MAX_SIDE || width > MAX_SIDE || batch.saturating_mul(height * width) > MAX_SIDE * MAX_SIDE {
        format!("at most {MAX_SIDE} pixels a side and {MAX_SIDE}x{MAX_SIDE} pixels in a batch are supported")
    } else {
        return Ok(());
    };
    Err(CodegenError::Size { model: *model, batch, height, width, reason })
}

/// A convolution with batch norm and activation.
#[derive(Clone, Copy)]
struct ConvNorm {
    side: usize,
    stride: usize,
    act: Act,
    eps: f32,
}

/// torchvision's `Conv2dNormActivation`: `<name>.0` convolution without bias, `<name>.1` batch norm, activation.
fn conv_norm(b: &mut Builder, name: &str, x: ValueId, out: usize, layer: ConvNorm) -> ValueId {
    let kernel = Kernel { side: layer.side, stride: layer.stride, padding: (layer.side - 1) / 2, bias: false };
    let x = b.conv(&format!("{name}.0"), x, out, kernel);
    let x = b.batch_norm(&format!("{name}.1"), x, layer.eps);
    b.act(&format!("{name}.2"), layer.act, x)
}

/// Every tensor of the published state dict: what the graph is made from and what is stored beside it but feeds nothing.
pub(crate) fn manifest(model: &ModelSpec) -> Vec<TensorDecl> {
    let (mut b, input) = Builder::new(1, 64, 64);
    let taps = taps(&mut b, model.backbone, input);
    let fused = decoder::mlp_fusion(&mut b, taps);
    decoder::decode(&mut b, model.variant, fused);
    let mut tensors = b.finish().required_tensors();
    let unused: Vec<TensorDecl> = tensors.iter().flat_map(|tensor| companions(&tensor.name)).collect();
    tensors.extend(unused);
    let last = match model.backbone {
        Backbone::SwinBase | Backbone::SwinV2Base | Backbone::SwinV2Small | Backbone::SwinV2Tiny => {
            Some(model.backbone.tap_channels()[3])
        }
        _ => None,
    };
    for leaf in ["weight", "bias"] {
        tensors.extend(last.map(|width| unused_tensor(format!("backbone.1.{leaf}"), vec![width])));
    }
    tensors
}

/// Stored beside a tensor of that name, but not computed with.
fn companions(name: &str) -> Vec<TensorDecl> {
    let beside = |leaf: &str, replaced: &str, shape: Vec<usize>| {
        unused_tensor(format!("{}{leaf}", name.strip_suffix(replaced).unwrap_or(name)), shape)
    };
    if name.ends_with("running_var") {
        vec![beside("num_batches_tracked", "running_var", vec![])]
    } else if name.ends_with("relative_position_bias_table") {
        vec![beside("relative_position_index", "relative_position_bias_table", vec![7 * 7 * 7 * 7])]
    } else if name.ends_with("logit_scale") {
        vec![
            beside("relative_position_index", "logit_scale", vec![8 * 8 * 8 * 8]),
            beside("relative_coords_table", "logit_scale", vec![1, 15, 15, 2]),
        ]
    } else {
        vec![]
    }
}

fn unused_tensor(name: String, shape: Vec<usize>) -> TensorDecl {
    TensorDecl { name, shape, required: false }
}

#[cfg(test)]
mod tests;
