//! The time a launch must take on a card, and what decides it.
//!
//! Every number of it is stated: rates of data sheets times the share that good kernels reach, and latencies (`cards.json`). Parts
//! overlap perfectly, so the longest decides; starting a launch and barriers of its grid overlap with nothing. It is a prediction:
//! no card has been asked.

use super::card::{Card, achievable, latency};
use super::kernel::{Argument, Launch};
use super::program::Program;
use crate::plan::Precision;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that a multiprocessor takes from L2 in a clock.
const L2_PORT_BYTES: f64 = 64.0;
/// Bytes that the first cache of a multiprocessor serves in a clock.
const L1_BYTES: f64 = 128.0;
/// Schedulers of a multiprocessor, each with its tensor core: fewer warps leave some idle.
const SCHEDULERS: f64 = 4.0;

/// What keeps a launch from being faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Arithmetic of the whole card.
    Arithmetic,
    /// Arithmetic of the busiest multiprocessor: blocks do not divide evenly, or their warps leave schedulers idle.
    Waves,
    /// Turns of a main loop one after the other, with too few blocks at once to hide what each waits for.
    Latency,
    /// The second-level cache.
    L2,
    /// The first-level cache: sectors of all requests; known only from counters.
    L1,
    /// The card's memory.
    Memory,
    /// Issuing instructions; known only from counters. They are PTX's: ptxas makes fewer of them, schedulers do not issue one every
    /// clock; the two are taken to cancel.
    Issue,
    /// Banks of shared memory; known only from counters.
    Shared,
    /// Barriers of the grid.
    Barriers,
    /// Starting it.
    Launch,
}

impl Limit {
    /// One word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Arithmetic => "arithmetic",
            Limit::Waves => "waves",
            Limit::Latency => "latency",
            Limit::L2 => "L2",
            Limit::L1 => "L1",
            Limit::Memory => "memory",
            Limit::Issue => "issue",
            Limit::Shared => "shared memory",
            Limit::Barriers => "barriers",
            Limit::Launch => "launch",
        }
    }
}

/// What was counted of a launch while it ran.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    /// Instructions of warps.
    pub warp_instructions: f64,
    /// Turns of shared memory: one for each 128 bytes without conflicts.
    pub shared_waves: f64,
    /// Bytes of the sectors that its requests touched in global memory.
    pub sector_bytes: f64,
}

/// What a launch asks of a card.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Needs {
    /// How products are computed.
    pub precision: Precision,
    /// Whether [`Needs::flops`] are those of matrix instructions.
    pub tensor: bool,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes through the card's memory.
    pub memory_bytes: f64,
    /// Bytes that blocks read and write, whatever cache they come from.
    pub traffic: f64,
    /// Blocks.
    pub blocks: usize,
    /// Threads of one.
    pub threads: usize,
    /// Blocks that a multiprocessor holds at once.
    pub resident: usize,
    /// Turns of a block's main loop.
    pub steps: usize,
    /// Barriers of the whole grid.
    pub barriers: usize,
    /// What was counted, if it was.
    pub counted: Option<Counted>,
}

/// The least time of a launch, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bound {
    /// All in all.
    pub microseconds: f64,
    /// What decides it.
    pub limit: Limit,
    /// Rounds in which blocks go through the multiprocessors.
    pub waves: f64,
    /// Warps at once on a multiprocessor that has blocks, as a share of those it could hold.
    pub occupancy: f64,
    /// Each part by itself.
    pub parts: Parts,
}

/// What a launch would take if nothing else did, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Parts {
    pub arithmetic: f64,
    pub busiest: f64,
    pub latency: f64,
    pub l2: f64,
    pub l1: f64,
    pub memory: f64,
    pub issue: f64,
    pub shared: f64,
    pub barriers: f64,
    pub launch: f64,
}

impl Parts {
    /// What overlaps.
    fn work(&self) -> f64 {
        [self.busiest, self.latency, self.l2, self.l1, self.memory, self.issue, self.shared]
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// The sum of what overlaps: how much there is to hide.
    pub(crate) fn sum(&self) -> f64 {
        self.busiest + self.latency + self.l2 + self.memory
    }
}

impl Card {
    /// The least time of a launch that needs that.
    pub fn bound(&self, needs: &Needs) -> Bound {
        let (share, wait) = (achievable(), latency());
        let multiprocessors = self.multiprocessors as f64;
        let blocks = needs.blocks.max(1) as f64;
        // The busiest multiprocessor has `each` blocks, `at_once` of them at a time.
        let each = needs.blocks.div_ceil(self.multiprocessors).max(1);
        let at_once = each.min(needs.resident.max(1));
        let rounds = each.div_ceil(at_once) as f64;
        let warps = (needs.threads.div_ceil(32) * at_once) as f64;
        let busy = |warps: f64| (warps / SCHEDULERS).min(1.0);

        let rate = match needs.tensor {
            true => self.achievable_tflops(needs.precision),
            false => self.f32_tflops * share.scalar,
        };
        let arithmetic = needs.flops / (rate * 1e6);
        // Of one block on a multiprocessor of its own whose schedulers are all busy.
        let block = arithmetic * multiprocessors / blocks;
        let busiest = each as f64 * block / busy(warps);

        let first = if needs.memory_bytes > 0.0 { wait.first_load_memory } else { wait.first_load_l2 };
        let steps = needs.steps.max(1) as f64;
        let step = block / steps;
        let alone = step / busy(needs.threads.div_ceil(32) as f64) + if needs.steps > 0 { wait.step } else { 0.0 };
        let latency = rounds * (first + steps * alone.max(step * at_once as f64 / busy(warps)));

        let traffic = needs.traffic;
        let port = L2_PORT_BYTES * self.clock_mhz * share.l2;
        let l2 = (traffic / (self.l2_gbs * share.l2 * 1e3)).max(traffic / blocks * each as f64 / port);
        let memory = needs.memory_bytes / (self.memory_gbs * share.memory * 1e3);
        let (mut issue, mut shared, mut l1) = (0.0, 0.0, 0.0);
        if let Some(counted) = needs.counted {
            let of_busiest = each as f64 / blocks;
            issue = counted.warp_instructions * of_busiest / (SCHEDULERS * busy(warps) * self.clock_mhz);
            shared = counted.shared_waves * of_busiest / self.clock_mhz;
            l1 = counted.sector_bytes * of_busiest / (L1_BYTES * self.clock_mhz);
        }
        let barriers = needs.barriers as f64 * wait.barrier;
        let parts = Parts {
            arithmetic,
            busiest,
            latency,
            l2,
            l1,
            memory,
            issue,
            shared,
            barriers,
            launch: self.launch_microseconds,
        };
        let work = parts.work();
        Bound {
            microseconds: parts.launch + barriers + work,
            limit: limit(&parts, work),
            waves: blocks / (multiprocessors * needs.resident.max(1) as f64),
            occupancy: (warps * 32.0 / self.threads as f64).min(1.0),
            parts,
        }
    }
}

fn limit(parts: &Parts, work: f64) -> Limit {
    if parts.launch >= work && parts.launch >= parts.barriers {
        return Limit::Launch;
    }
    if parts.barriers > work {
        return Limit::Barriers;
    }
    // Three quarters of the time in which the whole card would do it: then arithmetic is what there is too much of.
    if parts.arithmetic >= 0.75 * work {
        return Limit::Arithmetic;
    }
    let rest = [
        (parts.memory, Limit::Memory),
        (parts.l2, Limit::L2),
        (parts.l1, Limit::L1),
        (parts.issue, Limit::Issue),
        (parts.shared, Limit::Shared),
        (parts.busiest / 0.9, Limit::Waves),
        (parts.latency, Limit::Latency),
    ];
    rest.into_iter().find(|(part, _)| *part >= work).map_or(Limit::Latency, |(_, limit)| limit)
}

/// Bytes of each launch that come from or go to memory when the program runs again and again: what was touched so recently that
/// L2 still holds it does not. A buffer is taken to be gone once [`super::card::Achievable::l2_share`] of L2 has been filled by
/// others since it was touched last.
pub fn memory_bytes(program: &Program, card: &Card) -> Vec<u64> {
    let capacity = (card.l2_bytes as f64 * achievable().l2_share) as u64;
    let touched: Vec<Vec<(Buffer, u64)>> = program.launches.iter().map(|launch| buffers(program, launch)).collect();
    let run = touched.len();
    // Twice, so that the second run finds what the first has left.
    let sequence: Vec<&Vec<(Buffer, u64)>> = touched.iter().chain(&touched).collect();
    let mut last: BTreeMap<Buffer, usize> = BTreeMap::new();
    let mut result = vec![0; run];
    let input = program.input().and_then(|value| program.memory.offsets[value.0]).map(Buffer::Arena);
    for (at, launch) in sequence.iter().enumerate() {
        for (buffer, bytes) in launch.iter() {
            let before = last.insert(*buffer, at);
            if at < run {
                continue;
            }
            let between = before.map(|before| {
                let mut seen = BTreeSet::new();
                let others = sequence[before + 1..at].iter().flat_map(|launch| launch.iter());
                others.filter(|(other, _)| other != buffer && seen.insert(*other)).map(|(_, bytes)| bytes).sum::<u64>()
            });
            // The input is new every time: the host has written it since.
            let first = before.is_none_or(|before| before < run) && Some(*buffer) == input;
            if first || between.is_none_or(|between| between + bytes > capacity) {
                result[at - run] += bytes;
            }
        }
    }
    result.iter().zip(&program.launches).map(|(bytes, launch)| (*bytes).min(launch.bytes)).collect()
}

/// A piece of the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Buffer {
    Arena(usize),
    Constant(usize),
}

/// What a launch touches. A piece of working memory is as large as what the launch's bytes leave for it.
fn buffers(program: &Program, launch: &Launch) -> Vec<(Buffer, u64)> {
    let mut found: BTreeMap<Buffer, u64> = BTreeMap::new();
    let mut spaces = Vec::new();
    for argument in &launch.arguments {
        match *argument {
            Argument::Value(value) => {
                if let Some(offset) = program.memory.offsets[value.0] {
                    found.insert(Buffer::Arena(offset), program.graph.values[value.0].bytes() as u64);
                }
            }
            Argument::Constant(index) => {
                found.insert(Buffer::Constant(index), program.constants[index].2.len() as u64);
            }
            Argument::Workspace { node, offset } => {
                spaces.extend(program.memory.workspaces[node].map(|base| Buffer::Arena(base + offset)));
            }
            _ => {}
        }
    }
    let named: u64 = found.values().sum();
    let rest = launch.bytes.saturating_sub(named) / spaces.len().max(1) as u64;
    found.extend(spaces.into_iter().map(|space| (space, rest)));
    found.into_iter().collect()
}

/// What launch `index` of a program needs, with `resident` blocks on a multiprocessor and `memory_bytes` as [`memory_bytes`] says.
pub fn needs(program: &Program, index: usize, resident: usize, memory_bytes: u64, counted: Option<Counted>) -> Needs {
    let launch = &program.launches[index];
    Needs {
        precision: program.precision,
        tensor: launch.detail.tensor,
        flops: launch.flops as f64,
        memory_bytes: memory_bytes as f64,
        traffic: launch.detail.traffic.max(launch.bytes) as f64,
        blocks: launch.grid.iter().map(|side| *side as usize).product(),
        threads: program.kernels[launch.kernel].threads as usize,
        resident,
        steps: launch.detail.steps as usize,
        barriers: launch.detail.barriers as usize,
        counted,
    }
}

#[cfg(test)]
mod tests;
