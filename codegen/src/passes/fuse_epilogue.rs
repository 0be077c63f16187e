//! Activation, channel factor, layer norm and residual behind a product, a convolution or a depthwise convolution join it.

use super::rewrite::{Uses, as_act, as_norm, as_sum, repeat};
use crate::ir::{Graph, Op, Slot, ValueId};
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::{Act, Epilogue};

/// Moves what follows a product into its epilogue, as far as the epilogue's fixed order allows.
pub(crate) fn fuse_epilogue(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| extend(graph, uses, index).is_some()))
}

/// Takes the one node behind `index` into it.
fn extend(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let node = &graph.nodes[index];
    let out = *node.outputs.first()?;
    let next = uses.sole_reader(out)?;
    let mut merged = node.clone();
    match &mut merged.op {
        Op::Gemm(spec) => join(graph, next, out, &mut spec.epilogue, &mut merged.inputs)?,
        Op::Conv(spec) => join(graph, next, out, &mut spec.epilogue, &mut merged.inputs)?,
        Op::Depthwise(spec) => {
            let (act, _, _) = as_act(graph, next)?;
            if spec.act != Act::Identity || spec.pool {
                return None;
            }
            spec.act = act;
        }
        _ => return None,
    }
    merged.outputs = graph.nodes[next].outputs.clone();
    graph.replace(&[index, next], vec![merged]);
    Some(())
}

/// Adds what node `next` does to `out` to an epilogue: bias → act → scale → norm → residual → act_after.
fn join(
    graph: &Graph,
    next: usize,
    out: ValueId,
    epilogue: &mut Epilogue,
    inputs: &mut Vec<(Slot, ValueId)>,
) -> Option<()> {
    let before_act = !epilogue.scale && epilogue.norm.is_none() && !epilogue.residual;
    if let Some((act, _, _)) = as_act(graph, next) {
        if before_act && epilogue.act == Act::Identity {
            epilogue.act = act;
        } else if epilogue.residual && epilogue.act_after == Act::Identity {
            epilogue.act_after = act;
        } else {
            return None;
        }
    } else if let Some(norm) = as_norm(graph, next) {
        if epilogue.norm.is_some() || epilogue.residual {
            return None;
        }
        epilogue.norm = Some(norm.spec.eps);
        inputs.push((Slot::PostNormWeight, norm.weight));
        inputs.push((Slot::PostNormBias, norm.bias));
    } else if let Some(sum) = as_sum(graph, next) {
        if epilogue.residual || !sum.same_shape {
            return None;
        }
        epilogue.residual = true;
        inputs.push((Slot::Residual, sum.partner(out)?));
    } else {
        let Op::Elementwise(spec) = graph.nodes[next].op else { return None };
        if spec.op != ElementwiseOp::Scale || !before_act {
            return None;
        }
        epilogue.scale = true;
        inputs.push((Slot::Scale, graph.nodes[next].input(Slot::Scale)?));
    }
    Some(())
}
