//! Which samples a rank sees in an epoch, and in which order: those of the published training, number for number.

/// What happens when the samples do not divide by the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The epoch's first samples are repeated at its end, as published (torch's `drop_last = False`).
    Pad,
    /// Samples are left out at the end (torch's `drop_last = True`).
    Drop,
}

/// Deals samples to ranks, as torch's `DistributedSampler` does: one permutation per epoch, padded or cut so that it divides, rank
/// r taking every world_size-th from r on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Number of samples.
    pub len: usize,
    /// This process, below `world_size`.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Seed of the run; epoch e is shuffled by seed + e.
    pub seed: u64,
    /// Whether to shuffle; otherwise in order.
    pub shuffle: bool,
    /// What to do with the rest.
    pub tail: Tail,
}

impl Sampler {
    /// Samples of each rank in one epoch.
    pub fn per_rank(&self) -> usize {
        match self.tail {
            Tail::Pad => self.len.div_ceil(self.world_size),
            Tail::Drop => self.len / self.world_size,
        }
    }

    /// The samples of this rank in `epoch`, in order; every rank gets equally many.
    ///
    /// # Panics
    /// If `rank` is not below `world_size`.
    pub fn indices(&self, epoch: u64) -> Vec<usize> {
        assert!(self.rank < self.world_size, "rank {} of {}", self.rank, self.world_size);
        if self.len == 0 {
            return Vec::new();
        }
        let order = match self.shuffle {
            true => random_permutation(self.len, self.seed.wrapping_add(epoch)),
            false => (0..self.len).collect(),
        };
        let dealt = (0..self.per_rank()).map(|turn| self.rank + turn * self.world_size);
        dealt.map(|position| order[position % self.len]).collect()
    }
}

/// The permutation of 0..len that `torch.randperm` makes after `manual_seed(seed)`: Fisher and Yates' with words of MT19937.
fn random_permutation(len: usize, seed: u64) -> Vec<usize> {
    // From 2³²/20 on torch draws words of 64 bits.
    assert!(len < (u32::MAX / 20) as usize, "{len} samples are more than the generator can shuffle");
    let mut random = MersenneTwister::new(seed as u32);
    let mut order: Vec<usize> = (0..len).collect();
    for place in 0..len.saturating_sub(1) {
        order.swap(place, place + random.next() as usize % (len - place));
    }
    order
}

/// MT19937 (Matsumoto and Nishimura, 1998).
struct MersenneTwister {
    state: Vec<u32>,
    used: usize,
}

impl MersenneTwister {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = vec![seed; Self::SIZE];
        for i in 1..Self::SIZE {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, used: Self::SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.used == Self::SIZE {
            self.refill();
        }
        let mut word = self.state[self.used];
        self.used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for i in 0..Self::SIZE {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::SIZE] & 0x7fff_ffff);
            let twisted = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + Self::SHIFT) % Self::SIZE] ^ (mixed >> 1) ^ twisted;
        }
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_mt19937() {
        // The standard requires of std::mt19937 that its 10000th word is 4123659995.
        let mut random = MersenneTwister::new(5489);
        assert_eq!(random.next(), 3_499_211_612);
        assert_eq!((1..10_000).map(|_| random.next()).last(), Some(4_123_659_995));
    }

    #[test]
    fn permutations_are_those_of_torch() {
        // torch.manual_seed(0); torch.randperm(10). tests/sampling.rs asks libtorch itself.
        assert_eq!(random_permutation(10, 0), [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]);
    }

    fn ranks(len: usize, world_size: usize, tail: Tail, shuffle: bool, epoch: u64) -> Vec<Vec<usize>> {
        let sampler = |rank| Sampler { len, rank, world_size, seed: 32, shuffle, tail };
        (0..world_size).map(|rank| sampler(rank).indices(epoch)).collect()
    }

    #[test]
    fn ranks_share_out_an_epoch_and_pad_or_drop_its_end() {
        assert_eq!(ranks(5, 2, Tail::Pad, false, 0), [vec![0, 2, 4], vec![1, 3, 0]]);
        assert_eq!(ranks(5, 2, Tail::Drop, false, 0), [vec![0, 2], vec![1, 3]]);
        assert_eq!(ranks(2, 5, Tail::Pad, false, 0), [vec![0], vec![1], vec![0], vec![1], vec![0]]);
        assert_eq!(ranks(2, 5, Tail::Drop, false, 0), vec![Vec::<usize>::new(); 5]);
        for (len, world_size) in [(1, 1), (7, 1), (12, 4), (13, 4), (100, 7)] {
            let all = ranks(len, world_size, Tail::Pad, true, 3);
            assert!(all.iter().all(|rank| rank.len() == len.div_ceil(world_size)));
            let mut seen: Vec<usize> = all.concat();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, (0..len).collect::<Vec<_>>(), "every sample is seen");
            let dropped: Vec<usize> = ranks(len, world_size, Tail::Drop, true, 3).concat();
            let unique: std::collections::HashSet<_> = dropped.iter().collect();
            assert_eq!((dropped.len(), unique.len()), (len / world_size * world_size, dropped.len()));
        }
        assert_eq!(ranks(0, 3, Tail::Pad, true, 0), vec![Vec::<usize>::new(); 3]);
    }

    #[test]
    fn epochs_are_shuffled_differently_and_repeatably() {
        assert_ne!(ranks(50, 2, Tail::Pad, true, 0), ranks(50, 2, Tail::Pad, true, 1));
        assert_eq!(ranks(50, 2, Tail::Pad, true, 4), ranks(50, 2, Tail::Pad, true, 4));
    }
}
