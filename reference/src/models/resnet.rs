//! torchvision's `resnet101` (V1.5: the stride sits on the 3×3 convolution).

use crate::{Error, conv::conv, resample::max_pool_3x3, weights::Scope};
use tch::Tensor;

const NORM_EPS: f64 = 1e-5;

/// Tap `stage` from the one before it, or from the image: the outputs of `layer1` to `layer4`, after the last ReLU.
pub(super) fn stage(scope: &Scope, stage: usize, x: &Tensor) -> Result<Tensor, Error> {
    let mut x = match stage {
        0 => {
            let x = conv(x, &scope.at(0).tensor("weight")?, None, 2, 3);
            max_pool_3x3(&scope.at(1).batch_norm(&x, NORM_EPS)?.relu())
        }
        _ => x.shallow_clone(),
    };
    for index in 0..[3, 4, 23, 3][stage] {
        let stride = if stage > 0 && index == 0 { 2 } else { 1 };
        x = bottleneck(&scope.at(4 + stage).at(index), &x, stride, index == 0)?;
    }
    Ok(x)
}

/// relu(shortcut(x) + 1×1(relu(3×3(relu(1×1(x)))))), each convolution followed by a batch norm.
fn bottleneck(scope: &Scope, x: &Tensor, stride: i64, projects: bool) -> Result<Tensor, Error> {
    let y = conv(x, &scope.at("conv1").tensor("weight")?, None, 1, 0);
    let y = scope.at("bn1").batch_norm(&y, NORM_EPS)?.relu();
    let y = conv(&y, &scope.at("conv2").tensor("weight")?, None, stride, 1);
    let y = scope.at("bn2").batch_norm(&y, NORM_EPS)?.relu();
    let y = conv(&y, &scope.at("conv3").tensor("weight")?, None, 1, 0);
    let y = scope.at("bn3").batch_norm(&y, NORM_EPS)?;
    let shortcut = if projects {
        let downsample = scope.at("downsample");
        let projected = conv(x, &downsample.at(0).tensor("weight")?, None, stride, 0);
        downsample.at(1).batch_norm(&projected, NORM_EPS)?
    } else {
        x.shallow_clone()
    };
    Ok((y + shortcut).relu())
}
