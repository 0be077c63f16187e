//! What cards can do: `cards.json`, from NVIDIA's data sheets and published measurements, each with its source.

use crate::plan::Precision;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// A card. Rates are those of dense products with f32 sums at boost clock, before [`Achievable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Its name.
    pub name: String,
    /// Compute capability times ten, as in `sm_80`.
    pub arch: u32,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Boost clock.
    pub clock_mhz: f64,
    /// TFLOP/s of `mma.sync` in f16 or bf16. On Hopper the data sheet's number needs wgmma; `mma.sync` reaches 64 % of it.
    pub half_tflops: f64,
    /// TFLOP/s of `mma.sync` in tf32.
    pub tf32_tflops: f64,
    /// TFLOP/s of f32 fused multiply-adds.
    pub f32_tflops: f64,
    /// GB/s of its memory.
    pub memory_gbs: f64,
    /// GB/s of its L2 cache.
    pub l2_gbs: f64,
    /// Bytes of its L2 cache.
    pub l2_bytes: usize,
    /// Registers of a multiprocessor.
    pub registers: usize,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_bytes: usize,
    /// Threads that a multiprocessor holds.
    pub threads: usize,
    /// Blocks that a multiprocessor holds.
    pub blocks: usize,
    /// Microseconds that a launch inside a graph takes even if its kernel does nothing.
    pub launch_microseconds: f64,
    /// Where the numbers are from.
    pub source: String,
}

/// Shares of the data sheets' rates that good kernels are seen to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Achievable {
    /// Of tensor cores.
    pub tensor: f64,
    /// Of f32 multiply-adds.
    pub scalar: f64,
    /// Of memory bandwidth.
    pub memory: f64,
    /// Of L2 bandwidth.
    pub l2: f64,
    /// Of L2's bytes, before what was read or written is taken to be gone: its halves may hold the same lines.
    pub l2_share: f64,
}

/// Times that no parallelism shortens, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// A block's first loads, from memory.
    pub first_load_memory: f64,
    /// The same from L2.
    pub first_load_l2: f64,
    /// What a turn of a main loop takes beside its products.
    pub step: f64,
    /// A barrier of all blocks, with the first loads behind it.
    pub barrier: f64,
}

#[derive(Deserialize)]
struct Data {
    achievable: Achievable,
    latency: Latency,
    cards: Vec<Card>,
}

fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(|| serde_json::from_str(include_str!("cards.json")).expect("cards.json is part of the program"))
}

/// The cards that profiles are made for.
pub fn cards() -> &'static [Card] {
    &data().cards
}

/// What share of the rates is counted on.
pub fn achievable() -> Achievable {
    data().achievable
}

/// What takes its time whatever the card.
pub fn latency() -> Latency {
    data().latency
}

/// The card whose data decide where no card is at hand, such as for engine files for several cards.
pub const DEFAULT_CARD: &str = "H100";

impl Default for Card {
    fn default() -> Self {
        Card::named(DEFAULT_CARD).expect("the default card is one of them").clone()
    }
}

impl Card {
    /// The card of that name, in any case and with or without spaces: `rtx4090`.
    pub fn named(name: &str) -> Option<&'static Card> {
        let plain = |text: &str| text.to_ascii_lowercase().replace([' ', '-', '_'], "");
        cards().iter().find(|card| plain(&card.name) == plain(name))
    }

    /// The data for a device that calls itself `name`: those of the card that its name mentions; else of the card of the nearest
    /// architecture, with the device's own multiprocessors and rates in proportion.
    pub fn like(name: &str, arch: u32, multiprocessors: usize) -> Card {
        let plain = name.to_ascii_lowercase();
        let words: Vec<&str> = plain.split(|c: char| !c.is_alphanumeric()).collect();
        let mentions = |card: &&Card| {
            let wanted = card.name.to_ascii_lowercase();
            wanted.split(' ').all(|part| words.contains(&part)) && card.multiprocessors == multiprocessors
        };
        if let Some(card) = cards().iter().find(mentions) {
            return card.clone();
        }
        let nearest = cards()
            .iter()
            .min_by_key(|card| (card.arch.abs_diff(arch), card.multiprocessors.abs_diff(multiprocessors)));
        let mut card = nearest.cloned().unwrap_or_default();
        let share = multiprocessors as f64 / card.multiprocessors as f64;
        for rate in
            [&mut card.half_tflops, &mut card.tf32_tflops, &mut card.f32_tflops, &mut card.memory_gbs, &mut card.l2_gbs]
        {
            *rate *= share;
        }
        card.source = format!("scaled from the {} by multiprocessors", card.name);
        Card { name: name.into(), arch, multiprocessors, ..card }
    }

    /// TFLOP/s of products in a precision.
    pub fn tflops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F16 | Precision::Bf16 => self.half_tflops,
            Precision::Tf32 => self.tf32_tflops,
            Precision::F32 => self.f32_tflops,
        }
    }

    /// The share of [`Card::tflops`] that is counted on.
    pub fn achievable_tflops(&self, precision: Precision) -> f64 {
        let share = if precision == Precision::F32 { achievable().scalar } else { achievable().tensor };
        share * self.tflops(precision)
    }

    /// Blocks of a kernel that a multiprocessor holds at once. Registers that nobody knows are zero.
    pub fn resident_blocks(&self, threads: usize, registers: usize, shared_bytes: usize) -> usize {
        // Registers are given to warps in units of 256; a block's shared memory has 1 KiB of the system's own.
        let warps = threads.div_ceil(32);
        let by_registers = self.registers / (warps * (registers * 32).next_multiple_of(256)).max(1);
        let by_shared = self.shared_bytes / (shared_bytes + 1024);
        (self.threads / threads.max(1)).min(by_registers).min(by_shared).min(self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_limited_by_the_scarcest_resource() {
        let a100 = Card::named("a100").unwrap();
        assert_eq!(a100.resident_blocks(256, 32, 0), 8, "threads");
        assert_eq!(a100.resident_blocks(256, 128, 0), 2, "registers");
        assert_eq!(a100.resident_blocks(128, 32, 40 << 10), 4, "shared memory");
        assert_eq!(a100.resident_blocks(32, 16, 0), 32, "blocks");
        assert_eq!(a100.resident_blocks(256, 0, 0), 8, "registers unknown");
    }

    #[test]
    fn devices_find_the_data_of_their_card() {
        assert_eq!(Card::like("NVIDIA H100 80GB HBM3", 90, 132).name, "H100");
        assert_eq!(Card::like("NVIDIA GeForce RTX 4090", 89, 128).name, "RTX 4090");
        // Not the same chip: fewer multiprocessors.
        let pcie = Card::like("NVIDIA H100 PCIe", 90, 114);
        assert_eq!((pcie.name.as_str(), pcie.multiprocessors), ("NVIDIA H100 PCIe", 114));
        assert!((pcie.memory_gbs - 3352.0 * 114.0 / 132.0).abs() < 1e-9);
        assert_eq!(Card::like("NVIDIA GeForce RTX 4060", 89, 24).arch, 89);
        assert_eq!(Card::named("RTX4090").map(|card| card.arch), Some(89));
        assert!(Card::named("gtx 480").is_none());
    }
}
