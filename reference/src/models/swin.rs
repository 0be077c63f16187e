//! torchvision's `swin_b`, `swin_v2_b`, `swin_v2_s`, `swin_v2_t`.

use crate::{
    Error,
    conv::conv,
    mlp::mlp,
    patch_merge::{patch_merge_v1, patch_merge_v2},
    weights::Scope,
    window_attention::{Scores, WindowAttention, mlp_bias, table_bias},
};
use segface_kernels::Act;
use tch::Tensor;

const NORM_EPS: f64 = 1e-5;

enum Version {
    /// Norms before attention and MLP, bias table, windows of 7.
    V1,
    /// Norms after them (before the residual is added), cosine attention, windows of 8.
    V2,
}

pub(super) struct Swin {
    version: Version,
    depths: [i64; 4],
    /// Of stochastic depth, at the last block.
    rate: f64,
}

pub(super) const SWIN_B: Swin = Swin { version: Version::V1, depths: [2, 2, 18, 2], rate: 0.5 };
pub(super) const SWIN_V2_B: Swin = Swin { version: Version::V2, depths: [2, 2, 18, 2], rate: 0.5 };
pub(super) const SWIN_V2_S: Swin = Swin { version: Version::V2, depths: [2, 2, 18, 2], rate: 0.3 };
pub(super) const SWIN_V2_T: Swin = Swin { version: Version::V2, depths: [2, 2, 6, 2], rate: 0.2 };

/// Tap `stage` from the one before it, or from the image: a stage's output, before patch merging and without a norm.
pub(super) fn stage(scope: &Scope, stage: usize, x: &Tensor, swin: &Swin) -> Result<Tensor, Error> {
    let features = scope.at(0);
    let mut x = if stage == 0 {
        let stem = features.at(0);
        let x = conv(x, &stem.at(0).tensor("weight")?, Some(&stem.at(0).tensor("bias")?), 4, 0);
        stem.at(2).layer_norm(&x.permute([0, 2, 3, 1]), NORM_EPS)?
    } else {
        merge(&features.at(2 * stage), &x.permute([0, 2, 3, 1]), swin)?
    };
    let last = swin.depths.iter().sum::<i64>() - 1;
    let before: i64 = swin.depths[..stage].iter().sum();
    for index in 0..swin.depths[stage] {
        let probability = swin.rate * (before + index) as f64 / last as f64;
        x = block(&features.at(2 * stage + 1).at(index), &x, swin, index % 2 == 1, probability)?;
    }
    Ok(x.permute([0, 3, 1, 2]))
}

fn merge(scope: &Scope, x: &Tensor, swin: &Swin) -> Result<Tensor, Error> {
    let (norm, reduction) = (scope.at("norm").norm()?, scope.at("reduction").tensor("weight")?);
    let merge = match swin.version {
        Version::V1 => patch_merge_v1,
        Version::V2 => patch_merge_v2,
    };
    Ok(merge(x, &norm.weight, &norm.bias, &reduction))
}

fn block(scope: &Scope, x: &Tensor, swin: &Swin, shifted: bool, probability: f64) -> Result<Tensor, Error> {
    let attention = attention(&scope.at("attn"), swin, shifted)?;
    let layers = [scope.at("mlp").at(0).linear()?, scope.at("mlp").at(3).linear()?];
    let norm1 = |x: &Tensor| scope.at("norm1").layer_norm(x, NORM_EPS);
    let norm2 = |x: &Tensor| scope.at("norm2").layer_norm(x, NORM_EPS);
    let drop = |branch: &Tensor| scope.stochastic_depth(branch, probability);
    match swin.version {
        Version::V1 => {
            let x = x + drop(&attention.apply(&norm1(x)?));
            Ok(&x + drop(&mlp(&norm2(&x)?, &layers, Act::Gelu)))
        }
        Version::V2 => {
            let x = x + drop(&norm1(&attention.apply(x))?);
            Ok(&x + drop(&norm2(&mlp(&x, &layers, Act::Gelu))?))
        }
    }
}

fn attention(scope: &Scope, swin: &Swin, shifted: bool) -> Result<WindowAttention, Error> {
    let (window, position_bias, scores) = match swin.version {
        Version::V1 => (7, table_bias(&scope.tensor("relative_position_bias_table")?, 7), Scores::ScaledDot),
        Version::V2 => {
            let cpb = scope.at("cpb_mlp");
            let bias = mlp_bias(&cpb.at(0).linear()?, &cpb.at(2).tensor("weight")?, 8);
            (8, bias, Scores::Cosine(scope.tensor("logit_scale")?))
        }
    };
    let shift = if shifted { window / 2 } else { 0 };
    let (qkv, proj) = (scope.at("qkv").linear()?, scope.at("proj").linear()?);
    Ok(WindowAttention { qkv, proj, position_bias, scores, window, shift })
}
