//! Squeeze-excite without extra passes over the map: the depthwise convolution sums what it writes, and the projection
//! multiplies by the gate as it reads.

use super::rewrite::{Uses, repeat};
use crate::ir::{Graph, Op, Slot};
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::gemm::Prologue;

/// Joins sums with the depthwise convolution before them and gates with the product behind them.
pub(super) fn fuse_squeeze_excite(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| {
        (0..graph.nodes.len())
            .any(|index| join_sums(graph, uses, index).or_else(|| join_gate(graph, uses, index)).is_some())
    })
}

fn join_sums(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let Op::SumPool(_) = graph.nodes[index].op else { return None };
    let source = uses.producer(graph.nodes[index].input(Slot::X)?)?;
    let sums = graph.nodes[index].outputs[0];
    let Op::Depthwise(spec) = &mut graph.nodes[source].op else { return None };
    if spec.pool {
        return None;
    }
    spec.pool = true;
    graph.nodes[source].outputs.push(sums);
    graph.nodes.remove(index);
    Some(())
}

fn join_gate(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let Op::Elementwise(gate) = graph.nodes[index].op else { return None };
    let ElementwiseOp::Gate { rows_per_gate } = gate.op else { return None };
    let node = &graph.nodes[index];
    let out = node.outputs[0];
    let next = uses.sole_reader(out)?;
    let (x, factors) = (node.input(Slot::X)?, node.input(Slot::Gate)?);
    let mut merged = graph.nodes[next].clone();
    let reads_gated = merged.input(Slot::X)? == out;
    let Op::Gemm(spec) = &mut merged.op else { return None };
    if spec.prologue != Prologue::None || !reads_gated {
        return None;
    }
    spec.prologue = Prologue::Gate { rows_per_gate };
    merged.inputs.iter_mut().filter(|(slot, _)| *slot == Slot::X).for_each(|(_, value)| *value = x);
    merged.inputs.push((Slot::Gate, factors));
    graph.replace(&[index, next], vec![merged]);
    Some(())
}
