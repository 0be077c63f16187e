//! Whether a block that waits can ever go on by itself.
//!
//! A block whose registers and program counters come back to what they were, while no memory has changed, goes round in a
//! circle: what it does next is a function of those.

use super::{block::Block, splits::SPUN_BEFORE_RELEASE, warp::Warp};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Rounds in known states that prove a circle: more than the spun slices after which lanes at a join are let go, which is
/// the one thing that a waiting warp does by the number of its slices.
const PROOF: u32 = 2 * SPUN_BEFORE_RELEASE + 8;

/// States that are remembered: longer circles are not seen as such.
const STATES: usize = 32;

/// The states in which a block has been while it waited.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    /// The changes to memory that there had been.
    changes: u64,
    states: Vec<u64>,
    /// Rounds in a row that ended in a state that was known.
    known: u32,
}

impl Standstill {
    /// A round of waiting has ended; `changes`: of memory so far.
    pub(super) fn look(&mut self, block: &Block, changes: u64) {
        if self.changes != changes {
            *self = Self { changes, ..Self::default() };
        }
        let state = state(block);
        if self.states.contains(&state) {
            self.known += 1;
            return;
        }
        self.known = 0;
        if self.states.len() == STATES {
            self.states.clear();
        }
        self.states.push(state);
    }

    /// Whether the block goes round in a circle unless memory changes once more.
    pub(super) fn is_proven(&self, changes: u64) -> bool {
        self.changes == changes && self.known >= PROOF
    }
}

fn state(block: &Block) -> u64 {
    let mut hash = DefaultHasher::new();
    for &warp in &block.warps {
        // SAFETY: the block owns its warps, and none of them runs.
        unsafe { &*warp }.hash_state(&mut hash);
    }
    hash.finish()
}

impl Warp {
    /// Everything that decides what the warp does next, apart from memory and clocks.
    fn hash_state(&self, hash: &mut DefaultHasher) {
        (self.mask, self.pc, self.frame, self.join, self.live, self.resume, self.spun_lanes).hash(hash);
        for split in &self.others {
            (split.pc, split.mask, split.frame, split.join, split.resume).hash(hash);
            std::mem::discriminant(&split.state).hash(hash);
        }
        for join in &self.joins {
            (join.pc, join.frame, join.expected, join.arrived, join.parent, join.used).hash(hash);
        }
        for frame in &self.frames {
            (frame.function, frame.caller, frame.call_pc, frame.used).hash(hash);
            frame.registers.iter().for_each(|line| line.0.hash(hash));
        }
        self.local.hash(hash);
    }
}
