//! torchvision's ConvNeXt; widths come with the tensors.

use crate::{Error, conv::conv, depthwise::depthwise, mlp::mlp, weights::Scope};
use segface_kernels::Act;
use tch::Tensor;

const NORM_EPS: f64 = 1e-6;

/// Tap `stage` from the one before it, or from the image: a stage's output.
pub(super) fn stage(scope: &Scope, stage: usize, x: &Tensor, depths: [i64; 4], rate: f64) -> Result<Tensor, Error> {
    let features = scope.at(0);
    let mut x = if stage == 0 {
        let stem = features.at(0);
        let x = conv(x, &stem.at(0).tensor("weight")?, Some(&stem.at(0).tensor("bias")?), 4, 0);
        stem.at(1).layer_norm_2d(&x, NORM_EPS)?
    } else {
        let downsample = features.at(2 * stage);
        let normed = downsample.at(0).layer_norm_2d(x, NORM_EPS)?;
        let layer = downsample.at(1).linear()?;
        conv(&normed, &layer.weight, Some(&layer.bias), 2, 0)
    };
    let last = depths.iter().sum::<i64>() - 1;
    let before: i64 = depths[..stage].iter().sum();
    for index in 0..depths[stage] {
        let probability = rate * (before + index) as f64 / last as f64;
        x = block(&features.at(2 * stage + 1).at(index), &x, probability)?;
    }
    Ok(x)
}

/// x + layer_scale ⊙ MLP(LN(depthwise 7×7(x)))
fn block(scope: &Scope, x: &Tensor, probability: f64) -> Result<Tensor, Error> {
    let inner = scope.at("block");
    let y = depthwise(x, &inner.at(0).tensor("weight")?, Some(&inner.at(0).tensor("bias")?), 1);
    let y = inner.at(2).layer_norm(&y.permute([0, 2, 3, 1]), NORM_EPS)?;
    let y = mlp(&y, &[inner.at(3).linear()?, inner.at(5).linear()?], Act::Gelu);
    let y = y.permute([0, 3, 1, 2]) * scope.tensor("layer_scale")?;
    Ok(x + scope.stochastic_depth(&y, probability))
}
