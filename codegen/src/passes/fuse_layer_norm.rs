//! Layer norm in front of a product becomes its prologue: the normalised rows never reach memory.

use super::rewrite::{Uses, as_norm, repeat};
use crate::ir::{Graph, Op, Slot};
use segface_kernels::gemm::Prologue;

/// Joins every layer norm with the one product that reads it.
pub(super) fn fuse_layer_norm(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| join(graph, uses, index).is_some()))
}

fn join(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let norm = as_norm(graph, index)?;
    let next = uses.sole_reader(norm.out)?;
    let mut merged = graph.nodes[next].clone();
    let reads_norm = merged.input(Slot::X)? == norm.out;
    let Op::Gemm(spec) = &mut merged.op else { return None };
    if spec.prologue != Prologue::None || !reads_norm {
        return None;
    }
    spec.prologue = Prologue::LayerNorm { eps: norm.spec.eps };
    merged.inputs.iter_mut().filter(|(slot, _)| *slot == Slot::X).for_each(|(_, value)| *value = norm.x);
    merged.inputs.push((Slot::NormWeight, norm.weight));
    merged.inputs.push((Slot::NormBias, norm.bias));
    graph.replace(&[index, next], vec![merged]);
    Some(())
}
