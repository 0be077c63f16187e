//! When the gradients of a step are complete.

use super::super::{ALIGNMENT, Layout, Role};
use segface_codegen::ir::{Graph, Source};
use std::collections::BTreeMap;
use std::ops::Range;

/// For each node the ranges of the flat gradients to which no later node adds, with what lies between neighbours.
///
/// A kernel adds to gradients of parameters that stand among its node's operands only, so a gradient is complete behind the last node that
/// names its parameter, whatever that node does with it.
pub(super) fn complete_behind(layout: &Layout, graph: &Graph) -> Vec<Vec<Range<usize>>> {
    let mut last: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for (_, value) in &node.inputs {
            let Source::Weight(recipe) = &graph.values[value.0].source else { continue };
            for entry in recipe.tensors.iter().filter_map(|tensor| layout.find(&tensor.name)) {
                if entry.role == Role::Parameter && entry.trained {
                    last.insert(entry.range.start, (entry.range.end.next_multiple_of(ALIGNMENT), index));
                }
            }
        }
    }
    let mut behind: Vec<Vec<Range<usize>>> = vec![Vec::new(); graph.nodes.len()];
    for (start, (end, index)) in last {
        match behind[index].last_mut() {
            Some(before) if before.end == start => before.end = end,
            _ => behind[index].push(start..end),
        }
    }
    behind
}
