//! SegFace's MLP fusion, as published: project each tap, upsample, concatenate, mix (SEGFACE.md 3).

use crate::{mlp::Linear, resample::bilinear};
use tch::Tensor;

/// The fused map [N, 256, h, w] at the size of the first tap.
///
/// `taps`: four feature maps [N, C_i, h_i, w_i], finest first. `projections[i]`: C_i → 256. `fuse`: [256, 1024, 1, 1],
/// without bias, acting on the concatenation of the four projected maps *coarsest first*.
pub fn mlp_fusion(taps: &[Tensor; 4], projections: &[Linear; 4], fuse: &Tensor) -> Tensor {
    let (_, _, height, width) = taps[0].size4().expect("a tap is [N, C, h, w]");
    let mut maps: Vec<Tensor> = taps
        .iter()
        .zip(projections)
        .map(|(tap, projection)| {
            let (_, _, h, w) = tap.size4().expect("a tap is [N, C, h, w]");
            let tokens = projection.apply(&tap.flatten(2, 3).transpose(1, 2));
            let map = tokens.transpose(1, 2).unflatten(2, [h, w]);
            bilinear(&map, height, width)
        })
        .collect();
    maps.reverse();
    crate::conv::conv(&Tensor::cat(&maps, 1), fuse, None, 1, 0)
}
