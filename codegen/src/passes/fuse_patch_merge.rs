//! Swin's downsampling, gather, norm and product, becomes one kernel.

use super::rewrite::{Uses, as_linear, as_norm, repeat};
use crate::ir::{Graph, Node, Op, Slot};
use segface_kernels::patch_merge::{MergeNorm, PatchMergeSpec};

/// Fuses every patch merging of Swin V1 (norm before the product) and V2 (norm behind it).
pub(super) fn fuse_patch_merge(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse(graph, uses, index).is_some()))
}

fn fuse(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let Op::PatchGather(gather) = graph.nodes[index].op else { return None };
    let x = graph.nodes[index].input(Slot::X)?;
    let name = graph.nodes[index].name.clone();
    let next = uses.sole_reader(graph.nodes[index].outputs[0])?;
    let (norm, linear, placed, out) = if let Some(norm) = as_norm(graph, next) {
        let linear = as_linear(graph, uses.sole_reader(norm.out)?)?;
        let out = linear.out;
        (norm, linear, MergeNorm::Before, out)
    } else {
        let linear = as_linear(graph, next)?;
        let norm = as_norm(graph, uses.sole_reader(linear.out)?)?;
        let out = norm.out;
        (norm, linear, MergeNorm::After, out)
    };
    if linear.bias.is_some() {
        return None;
    }
    let spec = PatchMergeSpec {
        batch: gather.batch,
        input: gather.input,
        channels: gather.channels,
        norm: placed,
        eps: norm.spec.eps,
    };
    let fused = Node {
        name,
        op: Op::PatchMerge(spec),
        inputs: vec![
            (Slot::X, x),
            (Slot::NormWeight, norm.weight),
            (Slot::NormBias, norm.bias),
            (Slot::Weight, linear.weight),
        ],
        outputs: vec![out],
    };
    graph.replace(&[index, norm.node, linear.node], vec![fused]);
    Some(())
}
