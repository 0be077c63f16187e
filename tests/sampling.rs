//! Epochs are shuffled as libtorch shuffles them.

use segface::data::{Sampler, Tail};
use tch::{Device, Kind, Tensor};

#[test]
fn every_epoch_has_the_permutation_of_torch() {
    for (seed, epoch, len) in
        [(32, 0, 1187), (32, 1, 1187), (32, 299, 18_168), (0, 0, 10), (7, 5, 1), (i64::MAX as u64, 3, 625)]
    {
        tch::manual_seed((seed + epoch) as i64);
        let truth = Tensor::randperm(len, (Kind::Int64, Device::Cpu));
        let truth: Vec<i64> = Vec::try_from(truth).expect("a permutation");
        let sampler = Sampler { len: len as usize, rank: 0, world_size: 1, seed, shuffle: true, tail: Tail::Pad };
        assert!(
            sampler.indices(epoch).iter().map(|&i| i as i64).eq(truth),
            "seed {seed}, epoch {epoch}, {len} samples"
        );
    }
}
