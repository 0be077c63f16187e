//! torchvision's `efficientnet_v2_m`; widths come with the tensors.

use super::conv_norm;
use crate::{Error, squeeze_excite::squeeze_excite, weights::Scope};
use segface_kernels::Act::{Identity, Sigmoid, Silu};
use tch::Tensor;

const NORM_EPS: f64 = 1e-3;

#[derive(Clone, Copy)]
enum Kind {
    /// 3×3 convolution only.
    FusedPlain,
    /// 3×3 convolution that expands, 1×1 projection.
    Fused,
    /// 1×1 expansion, depthwise 3×3, squeeze-excite, 1×1 projection.
    MobileNet,
}

/// Blocks, how many, and the stride of the first: `features` 1 to 7.
const STAGES: [(Kind, i64, i64); 7] = [
    (Kind::FusedPlain, 3, 1),
    (Kind::Fused, 5, 2),
    (Kind::Fused, 5, 2),
    (Kind::MobileNet, 7, 2),
    (Kind::MobileNet, 14, 1),
    (Kind::MobileNet, 18, 2),
    (Kind::MobileNet, 5, 1),
];

/// Tap `stage` from the one before it, or from the image: the outputs of `features` 2, 3, 5 and 8, the last a 1×1 convolution to 1280 channels.
pub(super) fn stage(scope: &Scope, stage: usize, x: &Tensor) -> Result<Tensor, Error> {
    let features = [1..3, 3..4, 4..6, 6..8][stage].clone();
    let mut x = match stage {
        0 => conv_norm(&scope.at(0), x, 2, Silu, NORM_EPS)?,
        _ => x.shallow_clone(),
    };
    let depth = |features: &[(Kind, i64, i64)]| features.iter().map(|(_, depth, _)| depth).sum::<i64>();
    let (blocks, mut met) = (depth(&STAGES), depth(&STAGES[..features.start - 1]));
    for feature in features {
        let (kind, depth, first_stride) = STAGES[feature - 1];
        for index in 0..depth {
            let stride = if index == 0 { first_stride } else { 1 };
            let y = block(&scope.at(feature).at(index).at("block"), &x, kind, stride)?;
            // torchvision's rate, at the block behind the last.
            let probability = 0.2 * met as f64 / blocks as f64;
            met += 1;
            x = if y.size() == x.size() { x + scope.stochastic_depth(&y, probability) } else { y };
        }
    }
    Ok(if stage == 3 { conv_norm(&scope.at(8), &x, 1, Silu, NORM_EPS)? } else { x })
}

fn block(scope: &Scope, x: &Tensor, kind: Kind, stride: i64) -> Result<Tensor, Error> {
    match kind {
        Kind::FusedPlain => conv_norm(&scope.at(0), x, stride, Silu, NORM_EPS),
        Kind::Fused => {
            let y = conv_norm(&scope.at(0), x, stride, Silu, NORM_EPS)?;
            conv_norm(&scope.at(1), &y, 1, Identity, NORM_EPS)
        }
        Kind::MobileNet => {
            let y = conv_norm(&scope.at(0), x, 1, Silu, NORM_EPS)?;
            let y = conv_norm(&scope.at(1), &y, stride, Silu, NORM_EPS)?;
            let y = squeeze_excite(&y, &scope.at(2).squeeze_excite()?, Silu, Sigmoid);
            conv_norm(&scope.at(3), &y, 1, Identity, NORM_EPS)
        }
    }
}
