//! torchvision's `resnet101` (V1.5: the stride sits on the 3×3 convolution).

use crate::{Error, conv::conv, resample::max_pool_3x3, weights::Scope};
use tch::Tensor;

const NORM_EPS: f64 = 1e-5;

/// Taps are the outputs of `layer1` to `layer4`, after the last ReLU.
pub(super) fn taps(scope: &Scope, x: &Tensor) -> Result<[Tensor; 4], Error> {
    let x = conv(x, &scope.at(0).tensor("weight")?, None, 2, 3);
    let mut x = max_pool_3x3(&scope.at(1).batch_norm(&x, NORM_EPS)?.relu());

    let mut taps = Vec::new();
    for (layer, depth) in [3, 4, 23, 3].into_iter().enumerate() {
        for index in 0..depth {
            let stride = if layer > 0 && index == 0 { 2 } else { 1 };
            x = bottleneck(&scope.at(4 + layer).at(index), &x, stride, index == 0)?;
        }
        taps.push(x.shallow_clone());
    }
    Ok(taps.try_into().expect("four layers"))
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
