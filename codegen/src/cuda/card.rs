//! What cards can do, from NVIDIA's data sheets, and the time a launch must take at least.

use super::{Launch, Program};
use crate::plan::Precision;

/// A card. Rates are those of dense products with f32 sums at boost clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Compute capability times ten, as in `sm_80`.
    pub arch: u32,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// TFLOP/s of `mma.sync` in f16 or bf16. On Hopper the data sheet's number needs wgmma; `mma.sync` reaches 64 % of it.
    pub half_tflops: f64,
    /// TFLOP/s of `mma.sync` in tf32.
    pub tf32_tflops: f64,
    /// TFLOP/s of f32 fused multiply-adds.
    pub f32_tflops: f64,
    /// GB/s of its memory.
    pub memory_gbs: f64,
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
}

/// The cards that profiles are made for.
pub const CARDS: [Card; 5] = [
    Card {
        name: "A100",
        arch: 80,
        multiprocessors: 108,
        half_tflops: 312.0,
        tf32_tflops: 156.0,
        f32_tflops: 19.5,
        memory_gbs: 2039.0,
        l2_bytes: 40 << 20,
        registers: 65536,
        shared_bytes: 164 << 10,
        threads: 2048,
        blocks: 32,
    },
    Card {
        name: "H100",
        arch: 90,
        multiprocessors: 132,
        half_tflops: 0.64 * 989.0,
        tf32_tflops: 0.64 * 494.0,
        f32_tflops: 67.0,
        memory_gbs: 3352.0,
        l2_bytes: 50 << 20,
        registers: 65536,
        shared_bytes: 228 << 10,
        threads: 2048,
        blocks: 32,
    },
    Card {
        name: "RTX 4090",
        arch: 89,
        multiprocessors: 128,
        half_tflops: 165.2,
        tf32_tflops: 82.6,
        f32_tflops: 82.6,
        memory_gbs: 1008.0,
        l2_bytes: 72 << 20,
        registers: 65536,
        shared_bytes: 100 << 10,
        threads: 1536,
        blocks: 24,
    },
    Card {
        name: "L4",
        arch: 89,
        multiprocessors: 58,
        half_tflops: 121.0,
        tf32_tflops: 60.0,
        f32_tflops: 30.3,
        memory_gbs: 300.0,
        l2_bytes: 48 << 20,
        registers: 65536,
        shared_bytes: 100 << 10,
        threads: 1536,
        blocks: 24,
    },
    Card {
        name: "A6000",
        arch: 86,
        multiprocessors: 84,
        half_tflops: 154.8,
        tf32_tflops: 77.4,
        f32_tflops: 38.7,
        memory_gbs: 768.0,
        l2_bytes: 6 << 20,
        registers: 65536,
        shared_bytes: 100 << 10,
        threads: 1536,
        blocks: 16,
    },
];

/// Microseconds from one launch of a graph to the next that no card does without, as others have measured graph replays.
pub const LAUNCH_MICROSECONDS: f64 = 4.0;

/// What keeps a launch from being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Arithmetic of the multiprocessors it keeps busy.
    Arithmetic,
    /// The card's memory.
    Memory,
    /// Starting it.
    Launch,
}

impl Limit {
    /// One word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Arithmetic => "arithmetic",
            Limit::Memory => "memory",
            Limit::Launch => "launch",
        }
    }
}

/// The least time of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Microseconds.
    pub microseconds: f64,
    /// What decides it.
    pub limit: Limit,
}

impl Card {
    /// TFLOP/s of products in a precision.
    pub fn tflops(&self, precision: Precision) -> f64 {
        match precision {
            Precision::F16 | Precision::Bf16 => self.half_tflops,
            Precision::Tf32 => self.tf32_tflops,
            Precision::F32 => self.f32_tflops,
        }
    }

    /// Blocks of a kernel that a multiprocessor holds at once.
    pub fn resident_blocks(&self, threads: usize, registers: usize, shared_bytes: usize) -> usize {
        // Registers are given to warps in units of 256; a block's shared memory has 1 KiB of the system's own.
        let warps = threads.div_ceil(32);
        let by_registers = self.registers / (warps * (registers * 32).next_multiple_of(256)).max(1);
        let by_shared = self.shared_bytes / (shared_bytes + 1024);
        (self.threads / threads.max(1)).min(by_registers).min(by_shared).min(self.blocks)
    }

    /// The least time of a launch: its arithmetic on the multiprocessors that its blocks can keep busy, or its bytes through
    /// memory, or the time it takes to start it.
    pub fn bound(&self, program: &Program, launch: &Launch) -> Bound {
        let blocks: usize = launch.grid.iter().map(|side| *side as usize).product();
        let busy = blocks.min(self.multiprocessors) as f64 / self.multiprocessors as f64;
        let arithmetic = launch.flops as f64 / (self.tflops(program.precision) * busy * 1e6);
        let memory = launch.bytes as f64 / (self.memory_gbs * 1e3);
        let (work, limit) = if arithmetic > memory { (arithmetic, Limit::Arithmetic) } else { (memory, Limit::Memory) };
        if work < LAUNCH_MICROSECONDS {
            return Bound { microseconds: LAUNCH_MICROSECONDS, limit: Limit::Launch };
        }
        Bound { microseconds: work, limit }
    }

    /// The least time of a run, in microseconds.
    pub fn run_bound(&self, program: &Program) -> f64 {
        program.launches.iter().map(|launch| self.bound(program, launch).microseconds).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residency_is_limited_by_the_scarcest_resource() {
        let a100 = CARDS[0];
        assert_eq!(a100.resident_blocks(256, 32, 0), 8, "threads");
        assert_eq!(a100.resident_blocks(256, 128, 0), 2, "registers");
        assert_eq!(a100.resident_blocks(128, 32, 40 << 10), 4, "shared memory");
        assert_eq!(a100.resident_blocks(32, 16, 0), 32, "blocks");
    }
}
