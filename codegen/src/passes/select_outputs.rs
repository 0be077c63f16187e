//! Keeps what the caller wants and drops every node that only served the rest.

use crate::ir::{Graph, Node, Op, Output, Slot};
use segface_kernels::DType;
use segface_kernels::mask_head::ArgMaxSpec;

/// Restricts the graph to `wanted`; labels are made from the logits. Outputs come in the order of `wanted`.
pub fn select_outputs(graph: &mut Graph, wanted: &[Output]) {
    if wanted.contains(&Output::Labels)
        && !graph.outputs.iter().any(|(output, _)| *output == Output::Labels)
        && let Some(&(_, logits)) = graph.outputs.iter().find(|(output, _)| *output == Output::Logits)
    {
        let mut shape = graph.values[logits.0].shape.clone();
        let classes = shape.pop().unwrap_or(1);
        let rows = shape.iter().product();
        let labels = graph.add_intermediate("labels".into(), shape, DType::U8);
        graph.nodes.push(Node {
            name: "argmax".into(),
            op: Op::ArgMax(ArgMaxSpec { rows, classes }),
            inputs: vec![(Slot::X, logits)],
            outputs: vec![labels],
        });
        graph.outputs.push((Output::Labels, labels));
    }
    graph.outputs.retain(|(output, _)| wanted.contains(output));
    graph.outputs.sort_by_key(|(output, _)| wanted.iter().position(|w| w == output));
    drop_dead_nodes(graph);
}

/// Removes nodes none of whose outputs is read or given out.
pub fn drop_dead_nodes(graph: &mut Graph) {
    let mut alive = vec![false; graph.values.len()];
    for (_, value) in &graph.outputs {
        alive[value.0] = true;
    }
    let mut kept = Vec::new();
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if node.outputs.iter().any(|value| alive[value.0]) {
            node.inputs.iter().for_each(|(_, value)| alive[value.0] = true);
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
}
