//! torchvision's `mobilenet_v3_large`; widths come with the tensors.

use super::conv_norm;
use crate::{Error, squeeze_excite::squeeze_excite, weights::Scope};
use segface_kernels::Act::{self, HardSigmoid, HardSwish, Identity, Relu};
use tch::Tensor;

const NORM_EPS: f64 = 1e-3;

/// One inverted residual block: expand 1×1, depthwise k×k, squeeze-excite, project 1×1.
struct Block {
    expands: bool,
    squeezes: bool,
    activation: Act,
    stride: i64,
    residual: bool,
}

const fn block(expands: bool, squeezes: bool, activation: Act, stride: i64, residual: bool) -> Block {
    Block { expands, squeezes, activation, stride, residual }
}

/// `features` 1 to 15.
const BLOCKS: [Block; 15] = [
    block(false, false, Relu, 1, true),
    block(true, false, Relu, 2, false),
    block(true, false, Relu, 1, true),
    block(true, true, Relu, 2, false),
    block(true, true, Relu, 1, true),
    block(true, true, Relu, 1, true),
    block(true, false, HardSwish, 2, false),
    block(true, false, HardSwish, 1, true),
    block(true, false, HardSwish, 1, true),
    block(true, false, HardSwish, 1, true),
    block(true, true, HardSwish, 1, false),
    block(true, true, HardSwish, 1, true),
    block(true, true, HardSwish, 2, false),
    block(true, true, HardSwish, 1, true),
    block(true, true, HardSwish, 1, true),
];

/// Tap `stage` from the one before it, or from the image: the outputs of `features` 3, 6, 12 and 16, the last a 1×1 convolution to 960 channels.
pub(super) fn stage(scope: &Scope, stage: usize, x: &Tensor) -> Result<Tensor, Error> {
    let mut x = match stage {
        0 => conv_norm(&scope.at(0), x, 2, HardSwish, NORM_EPS)?,
        _ => x.shallow_clone(),
    };
    for index in [1..4, 4..7, 7..13, 13..16][stage].clone() {
        x = inverted_residual(&scope.at(index).at("block"), &x, &BLOCKS[index - 1])?;
    }
    Ok(if stage == 3 { conv_norm(&scope.at(16), &x, 1, HardSwish, NORM_EPS)? } else { x })
}

fn inverted_residual(scope: &Scope, x: &Tensor, block: &Block) -> Result<Tensor, Error> {
    let mut y = x.shallow_clone();
    let mut index = 0..;
    let mut next = || scope.at(index.next().expect("endless"));
    if block.expands {
        y = conv_norm(&next(), &y, 1, block.activation, NORM_EPS)?;
    }
    y = conv_norm(&next(), &y, block.stride, block.activation, NORM_EPS)?;
    if block.squeezes {
        y = squeeze_excite(&y, &next().squeeze_excite()?, Relu, HardSigmoid);
    }
    y = conv_norm(&next(), &y, 1, Identity, NORM_EPS)?;
    Ok(if block.residual { x + y } else { y })
}
