//! What CUDA's kernels share: device code (`*.cuh` beside this file), and the form in which they take weights.
//!
//! Kernels include one another by the path below `kernels/src`: `#include "gemm/forward.cuh"`. [`HEADERS`] holds all of them, so
//! that a program needs no files to compile them. None includes a header of the CUDA toolkit.

use crate::DType;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Options every kernel is compiled with, beside the architecture.
pub const COMPILE_OPTIONS: [&str; 3] = ["--std=c++17", "-default-device", "-lineinfo"];

macro_rules! headers {
    ($($path:literal)*) => {
        /// Every header: its path as kernels include it, and its text.
        pub const HEADERS: &[(&str, &str)] = &[$(($path, include_str!(concat!("../", $path))),)*];
    };
}

headers! {
    "cuda/number.cuh"
    "cuda/memory.cuh"
    "cuda/mma.cuh"
    "cuda/plain.cuh"
    "cuda/product.cuh"
    "cuda/activation.cuh"
    "cuda/epilogue.cuh"
    "cuda/vector.cuh"
    "cuda/grid.cuh"
    "cuda/channel_sums.cuh"
    "cuda/backward.cuh"
    "gemm/forward.cuh"
    "gemm/naive.cuh"
    "gemm/tiled.cuh"
    "conv/forward.cuh"
    "depthwise/forward.cuh"
    "squeeze_excite/forward.cuh"
    "elementwise/forward.cuh"
    "resample/forward.cuh"
    "gemm/wide.cuh"
    "layer_norm/forward.cuh"
    "mlp/forward.cuh"
    "mlp/naive.cuh"
    "mlp/tiled.cuh"
    "patch_merge/forward.cuh"
    "window_attention/attend.cuh"
    "window_attention/forward.cuh"
    "window_attention/geometry.cuh"
    "window_attention/naive.cuh"
    "window_attention/plain.cuh"
    "window_attention/tiled.cuh"
    "window_attention/unfused.cuh"
    "image/resize.cuh"
    "image/warp.cuh"
    "image/labels.cuh"
    "image/paint.cuh"
    "cuda/resident.cuh"
    "attention/forward.cuh"
    "mask_head/forward.cuh"
    "mlp_fusion/forward.cuh"
    "mlp_fusion/naive.cuh"
    "token_attention/forward.cuh"
    "token_attention/merge.cuh"
    "token_attention/naive.cuh"
    "token_attention/pack.cuh"
    "token_attention/position.cuh"
    "token_attention/token_step.cuh"
    "image/backward.cuh"
    "elementwise/backward.cuh"
    "batch_norm/backward.cuh"
    "layer_norm/backward.cuh"
    "resample/backward.cuh"
    "depthwise/backward.cuh"
    "squeeze_excite/backward.cuh"
    "loss/backward.cuh"
    "attention/backward.cuh"
    "mask_head/backward.cuh"
    "window_attention/backward.cuh"
    "gemm/backward.cuh"
    "conv/backward.cuh"
}

/// How a kernel's products are computed: the precisions of `cuda/number.cuh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fragment {
    /// f16 elements, mma.m16n8k16.
    Half,
    /// bf16 elements, mma.m16n8k16.
    Bfloat,
    /// f32 elements rounded to tf32, mma.m16n8k8.
    Tf32,
    /// f32 elements, fused multiply-adds.
    Single,
}

impl Fragment {
    /// Its name in `cuda/number.cuh`.
    pub fn name(self) -> &'static str {
        match self {
            Fragment::Half => "Half",
            Fragment::Bfloat => "Bfloat",
            Fragment::Tf32 => "Tf32",
            Fragment::Single => "Single",
        }
    }

    /// Element type of activations and weights.
    pub fn dtype(self) -> DType {
        match self {
            Fragment::Half => DType::F16,
            Fragment::Bfloat => DType::Bf16,
            Fragment::Tf32 | Fragment::Single => DType::F32,
        }
    }

    /// `PACK_K`: terms of k in a packed block.
    pub fn pack_k(self) -> usize {
        64 / self.dtype().size()
    }
}

/// Columns of n in a packed block.
pub const PACK_COLUMNS: usize = 8;
/// Bytes of a packed block.
pub const PACK_BYTES: usize = 512;

/// Bytes that a weight [n, k] takes in fragment order.
pub fn packed_bytes(fragment: Fragment, n: usize, k: usize) -> usize {
    n.div_ceil(PACK_COLUMNS) * k.div_ceil(fragment.pack_k()) * PACK_BYTES
}

/// A weight [n, k] in fragment order, rounded to the precision's element: blocks of 8 rows × [`Fragment::pack_k`] columns in the
/// order (column block, row block), zeros beyond the edges; in a block the numbers as `Mma<P>::load_b_packed` reads them.
///
/// # Panics
/// If `data` does not hold n·k numbers.
pub fn pack(fragment: Fragment, n: usize, k: usize, data: &[f32]) -> Vec<u8> {
    assert_eq!(data.len(), n * k, "a weight of {n} rows and {k} columns");
    let at = |row: usize, column: usize| if row < n && column < k { data[row * k + column] } else { 0.0 };
    let mut bytes = Vec::with_capacity(packed_bytes(fragment, n, k));
    for column in (0..k).step_by(fragment.pack_k()) {
        for row in (0..n).step_by(PACK_COLUMNS) {
            match fragment {
                Fragment::Half | Fragment::Bfloat => {
                    // Lane 4g + t: row g; of each 16 columns numbers 2t, 2t + 1, 2t + 8, 2t + 9.
                    for (g, t, half, pair) in product4(8, 4, 4, 2) {
                        let value = at(row + g, column + half / 2 * 16 + half % 2 * 8 + 2 * t + pair);
                        bytes.extend(match fragment {
                            Fragment::Half => f16::from_f32(value).to_le_bytes(),
                            _ => bf16::from_f32(value).to_le_bytes(),
                        });
                    }
                }
                Fragment::Tf32 => {
                    // Lane 4g + t: row g; of each 8 columns numbers t and t + 4.
                    for (g, t, half, _) in product4(8, 4, 4, 1) {
                        bytes.extend(round_tf32(at(row + g, column + half * 4 + t)).to_le_bytes());
                    }
                }
                Fragment::Single => {
                    // Four columns of each row side by side.
                    for (four, g, i, _) in product4(4, 8, 4, 1) {
                        bytes.extend(at(row + g, column + four * 4 + i).to_le_bytes());
                    }
                }
            }
        }
    }
    bytes
}

/// Bytes that [`pack_position_bias`] makes.
pub fn position_bias_bytes(heads: usize, area: usize) -> usize {
    heads * 64 * area.next_multiple_of(8) * 4
}

/// The position bias [heads, area, area] of window attention (`window_attention/attend.cuh`): [heads, 4 groups of 16 queries, groups
/// of 8 keys, 32 lanes, 4] in units of ln 2, so that a lane reads its four sums of an atom at once. Keys past the window are −∞,
/// queries past it 0.
///
/// # Panics
/// If `data` does not hold heads·area² numbers.
pub fn pack_position_bias(heads: usize, area: usize, data: &[f32]) -> Vec<u8> {
    assert_eq!(data.len(), heads * area * area, "a position bias of {heads} heads over {area} positions");
    let mut bytes = Vec::with_capacity(position_bias_bytes(heads, area));
    for head in 0..heads {
        for (group, atom) in (0..4 * area.div_ceil(8)).map(|i| (i / area.div_ceil(8), i % area.div_ceil(8))) {
            // Lane 4g + t: queries g and g + 8, keys 2t and 2t + 1.
            for (g, t, half, pair) in product4(8, 4, 2, 2) {
                let (query, key) = (group * 16 + half * 8 + g, atom * 8 + 2 * t + pair);
                let value = match (query < area, key < area) {
                    (true, true) => data[(head * area + query) * area + key] * std::f32::consts::LOG2_E,
                    (false, true) => 0.0,
                    (_, false) => f32::NEG_INFINITY,
                };
                bytes.extend(value.to_le_bytes());
            }
        }
    }
    bytes
}

/// Every combination of four indices, the last one fastest.
fn product4(a: usize, b: usize, c: usize, d: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..a * b * c * d).map(move |i| (i / (b * c * d), i / (c * d) % b, i / d % c, i % d))
}

/// Rounds to 10 bits of fraction, ties away from zero, as `cvt.rna.tf32` does.
pub fn round_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits(value.to_bits().wrapping_add(0x1000) & 0xffff_e000) } else { value }
}

/// Numbers in an element type.
///
/// # Panics
/// For class ids.
pub fn elements(dtype: DType, data: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::Bf16 => data.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        DType::F16 => data.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        DType::U8 => panic!("class ids are no numbers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_keeps_every_number_once_and_pads_with_zeros() {
        for fragment in [Fragment::Half, Fragment::Bfloat, Fragment::Tf32, Fragment::Single] {
            let (n, k) = (11, 37);
            // Integers up to 256 are exact in every element type.
            let data: Vec<f32> = (0..n * k).map(|i| (i % 256 + 1) as f32).collect();
            let bytes = pack(fragment, n, k, &data);
            assert_eq!(bytes.len(), packed_bytes(fragment, n, k));
            let mut found: Vec<f32> = match fragment.dtype() {
                DType::F16 => bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                DType::Bf16 => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
                _ => bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            };
            found.retain(|v| *v != 0.0);
            found.sort_by(f32::total_cmp);
            let mut expected = data.clone();
            expected.sort_by(f32::total_cmp);
            assert_eq!(found, expected, "{fragment:?}");
        }
    }

    #[test]
    fn a_packed_position_bias_has_every_number_at_its_lane_and_hides_keys_past_the_window() {
        let (heads, area) = (2, 49);
        let data: Vec<f32> = (0..heads * area * area).map(|i| i as f32).collect();
        let bytes = pack_position_bias(heads, area, &data);
        let packed: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(packed.len(), heads * 4 * 7 * 128);
        // Head 1, query 29 = group 1, second half, g = 5; key 43 = atom 5, t = 1, second of the pair.
        let lane = ((4 + 1) * 7 + 5) * 32 + 5 * 4 + 1;
        assert_eq!(packed[lane * 4 + 3], data[(area + 29) * area + 43] * std::f32::consts::LOG2_E);
        let hidden = packed.iter().filter(|v| **v == f32::NEG_INFINITY).count();
        assert_eq!(hidden, heads * 64 * (56 - area));
    }

    #[test]
    fn tf32_rounds_ties_away_from_zero() {
        let one = 1.0f32;
        let step = 2f32.powi(-10);
        assert_eq!(round_tf32(one + step / 2.0), one + step);
        assert_eq!(round_tf32(-one - step / 2.0), -one - step);
        assert_eq!(round_tf32(one + step / 4.0), one);
    }
}
