//! [norm →] linear → GELU → linear [→ layer scale] [→ norm] → residual becomes one kernel: the four times wider hidden rows
//! never leave the cache.

use super::rewrite::{Uses, as_act, as_linear, as_norm, as_sum, repeat};
use crate::ir::{Graph, Node, Op, Slot};
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::mlp::MlpSpec;
use segface_kernels::{Act, Epilogue};

/// Fuses the MLP of every Swin and ConvNeXt block.
pub(super) fn fuse_mlp(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse(graph, uses, index).is_some()))
}

fn fuse(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let first = as_linear(graph, index)?;
    let (act, _, hidden) = as_act(graph, uses.sole_reader(first.out)?)?;
    let second = as_linear(graph, uses.sole_reader(hidden)?)?;
    if act != Act::Gelu || second.spec.n != first.spec.k {
        return None;
    }
    let mut members = vec![index, uses.sole_reader(first.out)?, second.node];
    let mut spec = MlpSpec {
        rows: first.spec.rows,
        channels: first.spec.k,
        hidden: first.spec.n,
        norm: None,
        act,
        epilogue: Epilogue { bias: true, ..Epilogue::default() },
    };
    let mut x = first.x;
    let mut inputs = vec![
        (Slot::Weight, first.weight),
        (Slot::Bias, first.bias?),
        (Slot::Weight1, second.weight),
        (Slot::Bias1, second.bias?),
    ];
    if let Some(norm) = uses.producer(x).and_then(|p| as_norm(graph, p)).filter(|_| uses.sole_reader(x).is_some()) {
        spec.norm = Some(norm.spec.eps);
        inputs.push((Slot::NormWeight, norm.weight));
        inputs.push((Slot::NormBias, norm.bias));
        members.push(norm.node);
        x = norm.x;
    }
    let mut out = second.out;
    let mut next = uses.sole_reader(out)?;
    if let Op::Elementwise(scale) = graph.nodes[next].op
        && scale.op == ElementwiseOp::Scale
    {
        spec.epilogue.scale = true;
        inputs.push((Slot::Scale, graph.nodes[next].input(Slot::Scale)?));
        members.push(next);
        out = graph.nodes[next].outputs[0];
        next = uses.sole_reader(out)?;
    }
    if let Some(norm) = as_norm(graph, next) {
        spec.epilogue.norm = Some(norm.spec.eps);
        inputs.push((Slot::PostNormWeight, norm.weight));
        inputs.push((Slot::PostNormBias, norm.bias));
        members.push(next);
        out = norm.out;
        next = uses.sole_reader(out)?;
    }
    let sum = as_sum(graph, next)?;
    if !sum.same_shape {
        return None;
    }
    spec.epilogue.residual = true;
    inputs.push((Slot::Residual, sum.partner(out)?));
    members.push(next);

    inputs.insert(0, (Slot::X, x));
    let name = graph.nodes[index].name.clone();
    let fused = Node { name, op: Op::Mlp(spec), inputs, outputs: vec![sum.out] };
    graph.replace(&members, vec![fused]);
    Some(())
}
