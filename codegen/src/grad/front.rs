//! Activations where gradients of parameters come to lie.
//!
//! The flat array of gradients is the front of a training step's arena. A parameter's gradient is nothing until the first kernel adds to it,
//! late in the step; until then its place holds activations. What the forward pass leaves is read by the backward pass in the opposite order,
//! and a network's late layers, whose gradients come first, have most of the parameters: so nearly all of a step's activations find room
//! there, except those of the early layers, which are read last.

use crate::ir::{Graph, Op, Source, ValueId};
use crate::passes::plan_memory::{Front, MemoryPlan, live_bytes, plan_memory_over};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where gradients of parameters lie at the beginning of the arena.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlatGradients {
    /// Bytes of the whole array, a multiple of a cache line.
    pub bytes: usize,
    /// Bytes of each trained tensor's gradient by its published name, whole cache lines.
    pub places: BTreeMap<String, Range<usize>>,
    /// Whether activations may lie there before. If not, the array is gradients from the beginning of a step.
    pub shared: bool,
}

impl FlatGradients {
    /// For every node the parts that are gradients from there on: it is the first to add to them.
    pub(super) fn begin(&self, graph: &Graph) -> BTreeMap<usize, Vec<Range<usize>>> {
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            // Only kernels of the backward pass add to gradients; what is computed again reads parameters.
            if !self.shared || !matches!(node.op, Op::Backward(_)) {
                continue;
            }
            for place in node.inputs.iter().flat_map(|(_, value)| self.places_of(graph, *value)) {
                seen.entry(place.start).or_insert(index);
            }
        }
        let mut begin: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
        for place in self.places.values() {
            if let Some(node) = seen.get(&place.start) {
                begin.entry(*node).or_default().push(place.clone());
            }
        }
        begin
    }

    fn places_of<'a>(&'a self, graph: &'a Graph, value: ValueId) -> impl Iterator<Item = &'a Range<usize>> {
        let recipe = match &graph.values[value.0].source {
            Source::Weight(recipe) => &recipe.tensors[..],
            _ => &[],
        };
        recipe.iter().filter_map(|tensor| self.places.get(&tensor.name))
    }

    /// Which parts of the array are no place for activations, and from when on.
    fn front(&self, graph: &Graph) -> Front {
        let mut taken: Vec<(Range<usize>, usize)> = Vec::new();
        for (node, ranges) in self.begin(graph) {
            taken.extend(ranges.into_iter().map(|range| (range, node)));
        }
        taken.sort_by_key(|(range, _)| range.start);
        // What no kernel adds to keeps its numbers.
        let mut all: Vec<(Range<usize>, usize)> = Vec::new();
        let mut end = 0;
        for (range, node) in taken {
            if end < range.start {
                all.push((end..range.start, 0));
            }
            end = range.end;
            all.push((range, node));
        }
        if end < self.bytes {
            all.push((end..self.bytes, 0));
        }
        Front { bytes: self.bytes, taken: all }
    }

    /// The arena of a step.
    pub(super) fn plan(&self, graph: &Graph) -> MemoryPlan {
        plan_memory_over(graph, &self.front(graph))
    }

    /// Bytes that an arena takes behind the gradients.
    pub(super) fn behind(&self, plan: &MemoryPlan) -> usize {
        plan.arena_bytes - self.bytes
    }

    /// Bytes that are in use at each node and find no room among the gradients, if nothing is lost between values.
    pub(super) fn live_behind(&self, graph: &Graph) -> Vec<usize> {
        let mut free = vec![0; graph.nodes.len()];
        for (range, node) in self.front(graph).taken {
            free[..node].iter_mut().for_each(|free| *free += range.len());
        }
        live_bytes(graph).into_iter().zip(free).map(|(live, free)| live.saturating_sub(free)).collect()
    }
}
