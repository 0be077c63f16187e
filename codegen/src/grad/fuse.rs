//! Rewrites of a training graph that save passes over memory.

use super::BackwardOp;
use crate::ir::{Graph, Node, Op, Slot, ValueId};
use crate::passes::rewrite::{Uses, repeat};
use segface_kernels::elementwise::ElementwiseOp;
use std::collections::BTreeMap;

/// Nodes of a forward graph that compute the same from the same become one (the sum of image tokens and their encoding is asked for
/// twice a layer). Returns how many went.
pub(super) fn merge_equal(graph: &mut Graph) -> usize {
    let mut instead: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut nodes: Vec<Node> = Vec::with_capacity(graph.nodes.len());
    let before = graph.nodes.len();
    for mut node in std::mem::take(&mut graph.nodes) {
        for (_, value) in &mut node.inputs {
            *value = instead.get(value).copied().unwrap_or(*value);
        }
        // Only sums: nothing else is known to be repeated, and random numbers and running statistics must not be.
        let is_sum = matches!(node.op, Op::Elementwise(spec) if matches!(spec.op, ElementwiseOp::Add { .. }));
        match nodes.iter().find(|other| is_sum && other.op == node.op && other.inputs == node.inputs) {
            Some(same) => {
                instead.insert(node.outputs[0], same.outputs[0]);
            }
            None => nodes.push(node),
        }
    }
    graph.nodes = nodes;
    for (_, value) in &mut graph.outputs {
        *value = instead.get(value).copied().unwrap_or(*value);
    }
    before - graph.nodes.len()
}

/// An activation's gradient directly behind a product's data gradient becomes part of it. Returns how many did.
pub(super) fn fuse_slopes(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse_slope(graph, uses, index).is_some()))
}

fn fuse_slope(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let product = &graph.nodes[index];
    let Op::Backward(BackwardOp::GemmInput { spec, act: None }) = product.op else { return None };
    let next = &graph.nodes[uses.sole_reader(product.outputs[0])?];
    let Op::Backward(BackwardOp::Act(elementwise)) = next.op else { return None };
    let ElementwiseOp::Act(act) = elementwise.op else { return None };
    if product.input(Slot::Residual).is_some() || next.input(Slot::Residual).is_some() {
        return None;
    }
    let mut inputs = product.inputs.clone();
    inputs.push((Slot::X, next.input(Slot::X)?));
    let op = Op::Backward(BackwardOp::GemmInput { spec, act: Some(act) });
    let fused = Node { name: next.name.clone(), op, inputs, outputs: next.outputs.clone() };
    let members = [index, uses.sole_reader(product.outputs[0])?];
    graph.replace(&members, vec![fused]);
    Some(())
}
