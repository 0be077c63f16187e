//! What the kernel means.

use crate::DType;
use serde::{Deserialize, Serialize};

/// `out[b] = x[b] · factor[b]`, where factor is 0 with the probability given and else 1/(1 − probability): a function of the draw, the
/// place and the image alone (`Draw::factor`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StochasticDepthSpec {
    /// Images.
    pub batch: usize,
    /// Elements of one image.
    pub len: usize,
    /// Probability that an image's branch is dropped, below 1.
    pub probability: f32,
    /// Which place of the network this is: places draw independently.
    pub place: u32,
}

impl StochasticDepthSpec {
    /// Bytes read and written once each.
    pub fn bytes(&self, dtype: DType) -> usize {
        2 * self.batch * self.len * dtype.size()
    }
}

/// Where the random numbers of one micro-batch come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Draw {
    /// Of the run.
    pub seed: u64,
    /// Step of the optimizer. Beyond 2³² it wraps.
    pub step: u64,
    /// Micro-batch of that step.
    pub micro_batch: u32,
}

impl Draw {
    /// What image `image` of the micro-batch is multiplied by.
    pub fn factor(&self, spec: &StochasticDepthSpec, image: usize) -> f32 {
        let counter = [image as u32, spec.place, self.micro_batch, self.step as u32];
        let key = [self.seed as u32, (self.seed >> 32) as u32 ^ 0x5345_4744];
        let unit = (philox(counter, key)[0] >> 8) as f32 * 2f32.powi(-24);
        if unit < spec.probability { 0.0 } else { 1.0 / (1.0 - spec.probability) }
    }
}

/// Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four words from a counter and a key.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let wide = u64::from(a) * u64::from(b);
        ((wide >> 32) as u32, wide as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = product(0xD251_1F53, counter[0]);
        let (high1, low1) = product(0xCD9E_8D57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_its_authors_known_answers() {
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), answer);
        }
    }
}
