//! Upscaling, hypernetwork product and (where labels are wanted) argmax become one kernel.
//!
//! Both transposed convolutions are 2×2 with stride 2 and do not overlap: an image token alone decides its 4×4 output pixels,
//! so nothing between the decoder and the answer is ever written.

use super::rewrite::{Uses, as_act, as_linear, as_norm, repeat};
use crate::ir::{Graph, Node, Op, Slot, Source, Value, ValueId};
use crate::weights::{Make, Recipe};
use segface_kernels::mask_head::{MaskHeadOutput, MaskHeadSpec};
use segface_kernels::{Act, DType};

/// Fuses the mask head, with the argmax behind it if nothing else wants the logits.
pub(crate) fn fuse_mask_head(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fuse(graph, uses, index).is_some()))
}

fn fuse(graph: &mut Graph, uses: &Uses, index: usize) -> Option<()> {
    let Op::MaskProduct(product) = graph.nodes[index].op else { return None };
    let hyper = graph.nodes[index].input(Slot::Hyper)?;
    let mut members = vec![index];

    let upper = upscale(graph, uses, graph.nodes[index].input(Slot::X)?, &mut members)?;
    let norm_out = upper.activated;
    let norm = as_norm(graph, uses.producer(norm_out)?)?;
    uses.sole_reader(norm_out)?;
    members.push(norm.node);
    let lower = shuffle(graph, uses, norm.x, &mut members)?;

    let shape = &graph.values[lower.x.0].shape;
    let input = [shape[1], shape[2]];
    let mut spec =
        MaskHeadSpec { batch: product.batch, input, classes: product.classes, output: MaskHeadOutput::Logits };
    let mut out = graph.nodes[index].outputs[0];
    if let Some(next) = uses.sole_reader(out)
        && let Op::ArgMax(_) = graph.nodes[next].op
    {
        spec.output = MaskHeadOutput::Labels;
        out = graph.nodes[next].outputs[0];
        members.push(next);
    }
    let bias1 = first_quarter(graph, lower.bias)?;
    let bias2 = first_quarter(graph, upper.bias)?;
    let fused = Node {
        name: "mask_head".into(),
        op: Op::MaskHead(spec),
        inputs: vec![
            (Slot::X, lower.x),
            (Slot::Weight, lower.weight),
            (Slot::Bias, bias1),
            (Slot::NormWeight, norm.weight),
            (Slot::NormBias, norm.bias),
            (Slot::Weight1, upper.weight),
            (Slot::Bias1, bias2),
            (Slot::Hyper, hyper),
        ],
        outputs: vec![out],
    };
    graph.replace(&members, vec![fused]);
    Some(())
}

/// A transposed 2×2 stride-2 convolution as the graph has it.
struct Upscale {
    x: ValueId,
    weight: ValueId,
    bias: ValueId,
    /// What the activation in front of it reads.
    activated: ValueId,
}

/// gelu ← shuffle ← product ← gelu, seen from its output.
fn upscale(graph: &Graph, uses: &Uses, out: ValueId, members: &mut Vec<usize>) -> Option<Upscale> {
    uses.sole_reader(out)?;
    let outer = uses.producer(out)?;
    let (Act::Gelu, shuffled, _) = as_act(graph, outer)? else { return None };
    members.push(outer);
    let inner = shuffle(graph, uses, shuffled, members)?;
    uses.sole_reader(inner.x)?;
    let act = uses.producer(inner.x)?;
    let (Act::Gelu, activated, _) = as_act(graph, act)? else { return None };
    members.push(act);
    Some(Upscale { activated, ..inner })
}

/// shuffle ← product, seen from its output.
fn shuffle(graph: &Graph, uses: &Uses, out: ValueId, members: &mut Vec<usize>) -> Option<Upscale> {
    uses.sole_reader(out)?;
    let index = uses.producer(out)?;
    let Op::PixelShuffle(_) = graph.nodes[index].op else { return None };
    let projected = graph.nodes[index].input(Slot::X)?;
    uses.sole_reader(projected)?;
    let linear = as_linear(graph, uses.producer(projected)?)?;
    members.extend([index, linear.node]);
    Some(Upscale { x: linear.x, weight: linear.weight, bias: linear.bias?, activated: linear.x })
}

/// The bias of a transposed convolution is one per channel; the plain product repeats it for its four sub-pixels.
fn first_quarter(graph: &mut Graph, bias: ValueId) -> Option<ValueId> {
    let value = &graph.values[bias.0];
    let (name, quarter) = (value.name.clone(), value.len() / 4);
    if let Source::Weight(recipe) = &value.source {
        // Not bound yet: the bias changes from step to step.
        let recipe = (recipe.make == Make::Repeat(4)).then(|| Recipe { make: Make::Plain, ..recipe.clone() })?;
        graph.values.push(Value { name, shape: vec![quarter], dtype: DType::F32, source: Source::Weight(recipe) });
        return Some(ValueId(graph.values.len() - 1));
    }
    let data = graph.constant(bias)?.clone();
    debug_assert!(data.chunks_exact(quarter).all(|part| part == &data[..quarter]));
    Some(graph.add_constant(name, vec![quarter], data[..quarter].to_vec()))
}
