//! Memory that graphs allocate: at the same addresses in every launch, there from the allocating node to the freeing one.

use super::super::memory::BufferKind;
use super::super::operation::Operation;
use super::super::state::State;
use super::super::status::{Outcome, Status};
use super::executable::Plan;
use crate::memory::Memory;
use std::collections::HashSet;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH`.
const AUTO_FREE: u64 = 1;

/// What a plan and its children allocate and free.
#[derive(Default)]
struct Uses {
    allocated: Vec<u64>,
    freed: HashSet<u64>,
}

impl Uses {
    fn add(&mut self, plan: &Plan) {
        for step in plan.nodes.values() {
            match step.operation {
                Operation::Allocate { base, .. } => self.allocated.push(base),
                Operation::Free(base) => {
                    self.freed.insert(base);
                }
                _ => {}
            }
            if let Some(child) = &step.child {
                self.add(child);
            }
        }
    }
}

impl State {
    /// Whether the memory at `base` belongs to a graph's node.
    pub(in super::super) fn is_of_graph(&self, base: u64) -> bool {
        self.buffers.get(&base).is_some_and(|buffer| buffer.kind == BufferKind::Graph)
    }

    /// The program frees memory that a launch of a graph has left.
    pub(in super::super) fn freed_of_graph(&mut self, base: u64) {
        self.unfreed.remove(&base);
    }

    /// Notes what a launch of the plan allocates and frees. Returns what an earlier launch has left and must be freed
    /// first; without the flag for that it is an error.
    pub(super) fn allocate_again(&mut self, plan: &Plan, flags: u64) -> Outcome<Vec<u64>> {
        let mut uses = Uses::default();
        uses.add(plan);
        let left: Vec<u64> = uses.allocated.iter().copied().filter(|base| self.unfreed.contains(base)).collect();
        if let Some(base) = left.first().filter(|_| flags & AUTO_FREE == 0) {
            return Err(Status::InvalidValue.because(format!(
                "the graph's memory at {base:#x} has not been freed since its last launch \
                 (CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH does that)"
            )));
        }
        self.unfreed.extend(&uses.allocated);
        for base in &uses.freed {
            self.unfreed.remove(base);
        }
        Ok(left)
    }

    /// Gives up memory that no graph allocates any more and that has been freed.
    pub(super) fn release_graph_memory(&mut self) {
        let allocated = |operation: &Operation| match operation {
            Operation::Allocate { base, .. } => Some(*base),
            _ => None,
        };
        let nodes = self.graphs.values().flat_map(|graph| graph.nodes.values());
        let mut held: HashSet<u64> = nodes.filter_map(|node| allocated(&node.operation)).collect();
        for executable in self.executables.values() {
            let mut uses = Uses::default();
            uses.add(&executable.plan);
            held.extend(uses.allocated);
        }
        let memory = Memory::global();
        let gone = |base: &u64| !held.contains(base) && memory.find(*base).is_none();
        let graphs = self.buffers.iter().filter(|(_, buffer)| buffer.kind == BufferKind::Graph);
        let gone: Vec<u64> = graphs.map(|(base, _)| *base).filter(gone).collect();
        for base in gone {
            self.buffers.remove(&base);
            memory.release(base);
        }
    }
}
