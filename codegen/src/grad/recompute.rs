//! What the backward pass reads of the forward pass: kept in memory, or computed again before it is read (Chen et al., "Training deep nets
//! with sublinear memory cost", 2016), by a budget of memory or of work.
//!
//! Residual streams, and what batch norms and convolutions leave, are always kept. From there everything else can be had again, at a cost
//! per byte that differs by two orders of magnitude: a norm or an activation costs next to nothing, a product as many operations as it is deep.
//! Of what is in memory where the step needs most, the cheapest per byte is dropped first, and so on until the arena is as small as asked. The
//! same kernels run on the same numbers, so no result changes in any bit.

use super::{BackwardOp, FlatGradients};
use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_kernels::DType;
use segface_kernels::elementwise::ElementwiseOp;
use std::collections::BTreeMap;

/// Operations that take as long as moving a byte, about.
const OPERATIONS_PER_BYTE: u64 = 16;

/// What computing again is to reach, and what it may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Bytes that the arena should take behind the gradients at most.
    pub(super) bytes: usize,
    /// The share of the step's work that may be done twice.
    pub(super) work: f64,
}

/// Rewrites a training graph so that its arena takes no more than the budget, or as little as it can for it. Returns how many nodes run twice.
pub(super) fn recompute(graph: &mut Graph, gradients: &FlatGradients, budget: Budget) -> usize {
    if gradients.behind(&gradients.plan(graph)) <= budget.bytes {
        return 0;
    }
    let Some(forward) = Forward::of(graph) else { return 0 };
    let mut candidates: Vec<(ValueId, u64)> =
        forward.saved().filter_map(|value| Some((value, forward.cost(value)?))).collect();
    let bytes = |value: ValueId| graph.values[value.0].bytes() as u64;
    // By cost per byte; of equals the largest first.
    candidates.sort_by(|(a, cost), (b, other)| {
        let per_byte = (u128::from(*cost) * u128::from(bytes(*b))).cmp(&(u128::from(*other) * u128::from(bytes(*a))));
        per_byte.then(bytes(*b).cmp(&bytes(*a))).then(a.cmp(b))
    });
    let total: u64 = graph.nodes.iter().map(|node| work(graph, node)).sum();
    let mut left = (total as f64 * budget.work) as u64;
    let mut dropped: Vec<ValueId> = Vec::new();
    let (mut best, mut again) = (graph.clone(), 0);
    let mut need = Need::of(&best, gradients);
    loop {
        if need.bytes <= budget.bytes && gradients.behind(&gradients.plan(&best)) <= budget.bytes {
            break;
        }
        let next = candidates.iter().position(|(value, cost)| *cost <= left && need.holds(&best, *value));
        let Some(next) = next else { break };
        let (value, cost) = candidates.remove(next);
        dropped.push(value);
        let (tried, nodes) = forward.without(dropped.iter().copied());
        let then = Need::of(&tried, gradients);
        if (then.bytes, then.nodes) < (need.bytes, need.nodes) {
            left -= cost;
            (best, again, need) = (tried, nodes, then);
        } else {
            dropped.pop();
        }
    }
    *graph = best;
    again
}

/// What computing a node costs.
fn work(graph: &Graph, node: &Node) -> u64 {
    node.flops(graph) + OPERATIONS_PER_BYTE * node.bytes(graph)
}

/// The most that a step needs behind the gradients.
struct Need {
    bytes: usize,
    /// How many nodes need that much, and the first.
    nodes: usize,
    first: usize,
}

impl Need {
    fn of(graph: &Graph, gradients: &FlatGradients) -> Need {
        let live = gradients.live_behind(graph);
        let bytes = live.iter().copied().max().unwrap_or(0);
        let nodes = live.iter().filter(|live| **live == bytes).count();
        Need { bytes, nodes, first: live.iter().position(|live| *live == bytes).unwrap_or(0) }
    }

    /// Whether a value of the forward half is in memory there.
    fn holds(&self, graph: &Graph, value: ValueId) -> bool {
        let (before, from_there) = graph.nodes.split_at(self.first);
        let made = before.iter().any(|node| node.outputs.contains(&value));
        made && from_there.iter().any(|node| node.inputs.iter().any(|(_, operand)| *operand == value))
    }
}

/// The forward half of a training graph.
struct Forward<'a> {
    graph: &'a Graph,
    /// Nodes before the gradients begin.
    nodes: usize,
    /// By value: the node of the forward half that computes it.
    producer: Vec<Option<usize>>,
    /// By value: whether the backward half reads it.
    saved: Vec<bool>,
}

impl<'a> Forward<'a> {
    fn of(graph: &'a Graph) -> Option<Self> {
        let nodes = graph.nodes.iter().position(|node| matches!(node.op, Op::Backward(BackwardOp::Loss(_))))?;
        let mut producer = vec![None; graph.values.len()];
        for (index, node) in graph.nodes[..nodes].iter().enumerate() {
            node.outputs.iter().for_each(|output| producer[output.0] = Some(index));
        }
        let mut saved = vec![false; graph.values.len()];
        for (_, value) in graph.nodes[nodes + 1..].iter().flat_map(|node| &node.inputs) {
            saved[value.0] = producer[value.0].is_some();
        }
        Some(Self { graph, nodes, producer, saved })
    }

    fn saved(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.saved.iter().enumerate().filter(|(_, saved)| **saved).map(|(index, _)| ValueId(index))
    }

    /// What computing a saved value again costs, from other saved values; none if it must be kept.
    fn cost(&self, value: ValueId) -> Option<u64> {
        let node = &self.graph.nodes[self.producer[value.0]?];
        (!self.is_boundary(node)).then_some(())?;
        self.chain_cost(node)
    }

    fn chain_cost(&self, node: &Node) -> Option<u64> {
        // A batch norm also moves its running statistics: it runs once.
        (!matches!(node.op, Op::BatchNorm(_))).then_some(())?;
        let mut cost = work(self.graph, node);
        for (_, operand) in &node.inputs {
            if let Some(producer) = self.producer[operand.0].filter(|_| !self.saved[operand.0]) {
                cost += self.chain_cost(&self.graph.nodes[producer])?;
            }
        }
        Some(cost)
    }

    /// Whether what a node computes is where others start from.
    fn is_boundary(&self, node: &Node) -> bool {
        let computed = |slot: Slot| {
            node.input(slot).is_some_and(|value| matches!(self.graph.values[value.0].source, Source::Node))
        };
        match &node.op {
            Op::BatchNorm(_) | Op::Conv(_) => true,
            Op::Gemm(spec) => spec.epilogue.residual,
            Op::Elementwise(spec) => {
                matches!(spec.op, ElementwiseOp::Add { .. }) && computed(Slot::X) && computed(Slot::Other)
            }
            _ => false,
        }
    }

    /// The graph with those values computed again instead of kept, and how many nodes that takes.
    fn without(&self, dropped: impl Iterator<Item = ValueId>) -> (Graph, usize) {
        let mut kept = self.saved.clone();
        dropped.for_each(|value| kept[value.0] = false);
        let mut graph = Graph {
            values: self.graph.values.clone(),
            nodes: self.graph.nodes[..=self.nodes].to_vec(),
            outputs: self.graph.outputs.clone(),
        };
        let mut again = BTreeMap::new();
        let before = graph.nodes.len();
        for node in &self.graph.nodes[self.nodes + 1..] {
            let mut node = node.clone();
            for (_, operand) in &mut node.inputs {
                *operand = self.again(*operand, &kept, &mut again, &mut graph);
            }
            graph.nodes.push(node);
        }
        let count = graph.nodes.len() - before - (self.graph.nodes.len() - self.nodes - 1);
        (graph, count)
    }

    /// A value of the forward half for a node of the backward half: itself if it is kept, else computed anew, once.
    fn again(
        &self,
        value: ValueId,
        kept: &[bool],
        again: &mut BTreeMap<ValueId, ValueId>,
        graph: &mut Graph,
    ) -> ValueId {
        let producer = self.producer.get(value.0).copied().flatten();
        let Some(producer) = producer.filter(|_| !kept[value.0]) else { return value };
        if let Some(anew) = again.get(&value) {
            return *anew;
        }
        let mut node = self.graph.nodes[producer].clone();
        for (_, operand) in &mut node.inputs {
            *operand = self.again(*operand, kept, again, graph);
        }
        for output in &mut node.outputs {
            let value = &self.graph.values[output.0];
            let (name, shape, dtype): (_, _, DType) =
                (format!("{} again", value.name), value.shape.clone(), value.dtype);
            let anew = graph.add_intermediate(name, shape, dtype);
            again.insert(*output, anew);
            *output = anew;
        }
        node.name = format!("{} again", node.name);
        graph.nodes.push(node);
        again[&value]
    }
}
