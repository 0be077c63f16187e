//! Swin's patch merging: four neighbours concatenated and projected, halving height and width.

use crate::{gemm::linear, layer_norm::layer_norm};
use tch::Tensor;

/// [N, H, W, C] to [N, ⌈H/2⌉, ⌈W/2⌉, 4C]: odd sizes are zero-padded at the bottom and right; of the four neighbours
/// the row offset varies first: (0,0) (1,0) (0,1) (1,1).
pub fn gather_neighbours(x: &Tensor) -> Tensor {
    let (_, h, w, _) = x.size4().expect("patch merging takes [N, H, W, C]");
    let x = x.constant_pad_nd([0, 0, 0, w % 2, 0, h % 2]);
    let (h, w) = (h + h % 2, w + w % 2);
    let at = |row: i64, column: i64| x.slice(1, row, h, 2).slice(2, column, w, 2);
    Tensor::cat(&[at(0, 0), at(1, 0), at(0, 1), at(1, 1)], -1)
}

/// Swin V1: LN over the 4C gathered channels (ε 1e-5), then `reduction` [2C, 4C] without bias.
pub fn patch_merge_v1(x: &Tensor, norm_weight: &Tensor, norm_bias: &Tensor, reduction: &Tensor) -> Tensor {
    linear(&layer_norm(&gather_neighbours(x), norm_weight, norm_bias, 1e-5), reduction, None)
}

/// Swin V2: `reduction` [2C, 4C] without bias, then LN over the 2C reduced channels (ε 1e-5).
pub fn patch_merge_v2(x: &Tensor, norm_weight: &Tensor, norm_bias: &Tensor, reduction: &Tensor) -> Tensor {
    layer_norm(&linear(&gather_neighbours(x), reduction, None), norm_weight, norm_bias, 1e-5)
}
