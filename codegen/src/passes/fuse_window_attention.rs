//! A whole Swin attention branch, norm to residual, becomes one kernel that goes window by window.
//!
//! Needs `skip_padded_rows`: the fused kernel never computes padded rows.

use super::rewrite::{Norm, Uses, as_linear, as_norm, as_sum, repeat};
use crate::ir::{Graph, Node, Op, Slot};
use segface_kernels::window_attention::{WindowAttentionSpec, WindowKind};

/// Fuses every attention branch of Swin V1 and V2.
pub(super) fn fuse_window_attention(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse(graph, uses, index).is_some()))
}

fn fuse(graph: &mut Graph, uses: &Uses, core_index: usize) -> Option<()> {
    let Op::WindowCore(core) = graph.nodes[core_index].op else { return None };
    let core_node = &graph.nodes[core_index];
    let windows = core_node.input(Slot::X)?;
    uses.sole_reader(windows)?;

    // Towards the input: gather ← qkv ← [norm] ← x.
    let gather_index = uses.producer(windows)?;
    let Op::WindowGather(_) = graph.nodes[gather_index].op else { return None };
    let rows = graph.nodes[gather_index].input(Slot::X)?;
    uses.sole_reader(rows)?;
    let qkv = as_linear(graph, uses.producer(rows)?)?;
    if graph.nodes[gather_index].input(Slot::Fill) != qkv.bias {
        return None;
    }

    // Towards the output: scatter → projection → [norm] → sum.
    let scatter_index = uses.sole_reader(core_node.outputs[0])?;
    let Op::WindowScatter(_) = graph.nodes[scatter_index].op else { return None };
    let proj = as_linear(graph, uses.sole_reader(graph.nodes[scatter_index].outputs[0])?)?;

    let mut members = vec![core_index, gather_index, qkv.node, scatter_index, proj.node];
    let (norm, x, branch): (Norm, _, _) = match core.kind {
        WindowKind::V1 => {
            uses.sole_reader(qkv.x)?;
            let norm = as_norm(graph, uses.producer(qkv.x)?)?;
            let x = norm.x;
            (norm, x, proj.out)
        }
        WindowKind::V2 => {
            let norm = as_norm(graph, uses.sole_reader(proj.out)?)?;
            let branch = norm.out;
            (norm, qkv.x, branch)
        }
    };
    members.push(norm.node);
    let sum = as_sum(graph, uses.sole_reader(branch)?)?;
    if sum.partner(branch)? != x {
        return None;
    }
    members.push(sum.node);

    let spec = WindowAttentionSpec {
        batch: core.batch,
        input: core.plan.input,
        channels: core.channels,
        heads: core.heads,
        window: core.plan.window,
        shift: core.plan.shift,
        kind: core.kind,
        eps: norm.spec.eps,
    };
    let fused = Node {
        name: core_node.name.clone(),
        op: Op::WindowAttention(spec),
        inputs: vec![
            (Slot::X, x),
            (Slot::NormWeight, norm.weight),
            (Slot::NormBias, norm.bias),
            (Slot::QkvWeight, qkv.weight),
            (Slot::QkvBias, qkv.bias?),
            (Slot::ScoreScale, core_node.input(Slot::ScoreScale)?),
            (Slot::ScoreBias, core_node.input(Slot::ScoreBias)?),
            (Slot::ProjWeight, proj.weight),
            (Slot::ProjBias, proj.bias?),
        ],
        outputs: vec![sum.out],
    };
    graph.replace(&members, vec![fused]);
    Some(())
}
