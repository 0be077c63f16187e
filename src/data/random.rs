//! Random numbers that are a function of where they are used: a counter goes through ten rounds of Philox 4×32 (Salmon et al., "Parallel
//! random numbers: as easy as 1, 2, 3", SC 2011) under a key. No state, so threads, ranks and resumed runs agree.

use segface_kernels::stochastic_depth::philox;

/// The random numbers of one sample in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleRandom {
    key: [u32; 2],
    epoch: u32,
    index: u32,
    /// Keeps sequences of one sample apart.
    branch: u32,
    draws: u32,
}

impl SampleRandom {
    /// Numbers for sample `index` of `epoch` under `seed`. Epochs and indices beyond 2³² wrap.
    pub(super) fn new(seed: u64, epoch: u64, index: usize) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], epoch: epoch as u32, index: index as u32, branch: 0, draws: 0 }
    }

    /// Numbers of the same sample that have nothing to do with these, and do not depend on how many of these were drawn.
    pub(super) fn branch(&self, branch: u32) -> Self {
        Self { branch, draws: 0, ..*self }
    }

    /// The next four words.
    pub(super) fn words(&mut self) -> [u32; 4] {
        let words = philox([self.draws, self.index, self.epoch, self.branch], self.key);
        self.draws += 1;
        words
    }

    /// The next number in [0, 1), of 53 bits.
    fn unit(&mut self) -> f64 {
        let [a, b, ..] = self.words();
        ((u64::from(a) << 32 | u64::from(b)) >> 11) as f64 * 2f64.powi(-53)
    }

    /// The next number between `low` and `high`.
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_uniform_and_differ_by_seed_epoch_index_and_draw() {
        let mut seen = std::collections::HashSet::new();
        let (mut sum, mut square, mut count) = (0.0, 0.0, 0.0);
        for (seed, epoch, index) in (0..8u64).flat_map(|s| (0..8u64).flat_map(move |e| (0..8).map(move |i| (s, e, i))))
        {
            let mut random = SampleRandom::new(seed << 30, epoch, index);
            for _ in 0..4 {
                let value = random.uniform(-2.0, 4.0);
                assert!((-2.0..4.0).contains(&value));
                assert!(seen.insert(value.to_bits()));
                let unit = (value + 2.0) / 6.0;
                (sum, square, count) = (sum + unit, square + unit * unit, count + 1.0);
            }
        }
        let (mean, second) = (sum / count, square / count);
        // Standard errors with 2048 numbers: 0.0064 and 0.0066.
        assert!((mean - 0.5).abs() < 0.025 && (second - 1.0 / 3.0).abs() < 0.025, "{mean} {second}");
    }
}
