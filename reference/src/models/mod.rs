//! The published networks: torchvision's backbones and SegFace's decoder.

mod convnext;
pub(crate) mod decoder;
mod efficientnet;
mod mobilenet;
mod resnet;
mod swin;

use crate::{Error, conv::conv, depthwise::depthwise, elementwise::activate, weights::Scope};
use segface_codegen::Backbone;
use segface_kernels::Act;
use tch::Tensor;

/// The four taps [N, C, h, w] of `backbone` on `x` [N, 3, H, W], strides 4, 8, 16, 32.
pub(crate) fn taps(backbone: Backbone, root: &Scope, x: &Tensor) -> Result<[Tensor; 4], Error> {
    let first = stage(backbone, root, 0, x)?;
    let second = stage(backbone, root, 1, &first)?;
    let third = stage(backbone, root, 2, &second)?;
    let fourth = stage(backbone, root, 3, &third)?;
    Ok([first, second, third, fourth])
}

/// Tap `stage` of `backbone`, from `x`: the tap before it, or the image.
pub(crate) fn stage(backbone: Backbone, root: &Scope, stage: usize, x: &Tensor) -> Result<Tensor, Error> {
    let scope = root.at("backbone");
    match backbone {
        Backbone::SwinBase => swin::stage(&scope, stage, x, &swin::SWIN_B),
        Backbone::SwinV2Base => swin::stage(&scope, stage, x, &swin::SWIN_V2_B),
        Backbone::SwinV2Small => swin::stage(&scope, stage, x, &swin::SWIN_V2_S),
        Backbone::SwinV2Tiny => swin::stage(&scope, stage, x, &swin::SWIN_V2_T),
        Backbone::ConvNextBase => convnext::stage(&scope, stage, x, [3, 3, 27, 3], 0.5),
        Backbone::ConvNextSmall => convnext::stage(&scope, stage, x, [3, 3, 27, 3], 0.4),
        Backbone::ConvNextTiny => convnext::stage(&scope, stage, x, [3, 3, 9, 3], 0.1),
        Backbone::ResNet => resnet::stage(&scope, stage, x),
        Backbone::MobileNet => mobilenet::stage(&scope, stage, x),
        Backbone::EfficientNet => efficientnet::stage(&scope, stage, x),
    }
}

/// The smallest height and width for which none of the taps of `backbone` is empty: padded convolutions and padded
/// patch merging round up, ConvNeXt's unpadded ones round down.
pub(crate) fn least_side(backbone: Backbone) -> i64 {
    match backbone {
        Backbone::SwinBase | Backbone::SwinV2Base | Backbone::SwinV2Small | Backbone::SwinV2Tiny => 4,
        Backbone::ConvNextBase | Backbone::ConvNextSmall | Backbone::ConvNextTiny => 32,
        Backbone::ResNet | Backbone::MobileNet | Backbone::EfficientNet => 1,
    }
}

/// torchvision's `Conv2dNormAct`: a convolution without bias padded by (k − 1)/2 (depthwise if its filters have
/// one channel), batch norm, activation.
fn conv_norm(scope: &Scope, x: &Tensor, stride: i64, activation: Act, eps: f64) -> Result<Tensor, Error> {
    let weight = scope.at(0).tensor("weight")?;
    let (_, depth, side, _) = weight.size4().expect("a filter is [out, in, k, k]");
    let y =
        if depth == 1 { depthwise(x, &weight, None, stride) } else { conv(x, &weight, None, stride, (side - 1) / 2) };
    Ok(activate(activation, &scope.at(1).batch_norm(&y, eps)?))
}
