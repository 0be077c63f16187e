//! Batch norm behind a convolution becomes part of its weight and bias.
//!
//! (w·x + b − mean)·s + β = (s·w)·x + (b − mean)·s + β with s = γ/√(var + ε), exact in real arithmetic; computed in f64.

use super::rewrite::{Uses, repeat};
use crate::ir::{Graph, Op, Slot, ValueId};
use segface_kernels::elementwise::ElementwiseOp;

/// Folds every batch norm whose operand is the unshared output of a convolution or product.
pub(super) fn fold_batch_norm(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fold(graph, uses, index).is_some()))
}

fn fold(graph: &mut Graph, uses: &Uses, norm: usize) -> Option<()> {
    let Op::Elementwise(spec) = graph.nodes[norm].op else { return None };
    let ElementwiseOp::BatchNorm { eps } = spec.op else { return None };
    let node = &graph.nodes[norm];
    let x = node.input(Slot::X)?;
    let source = uses.producer(x)?;
    uses.sole_reader(x)?;
    let statistic = |slot: Slot| node.input(slot).and_then(|v| graph.constant(v)).cloned();
    let gamma = statistic(Slot::NormWeight)?;
    let beta = statistic(Slot::NormBias)?;
    let mean = statistic(Slot::Mean)?;
    let variance = statistic(Slot::Variance)?;
    let out = node.outputs[0];

    let producer = &graph.nodes[source];
    // Output channels are rows of a product's weight and columns of a depthwise one's.
    let by_row = match producer.op {
        Op::Conv(spec) if spec.epilogue == plain(spec.epilogue.bias) => true,
        Op::Gemm(spec) if spec.epilogue == plain(spec.epilogue.bias) => true,
        Op::Depthwise(spec) if spec.act == segface_kernels::Act::Identity && !spec.pool => false,
        _ => return None,
    };
    let weight_id = producer.input(Slot::Weight)?;
    let bias_id = producer.input(Slot::Bias);
    let weight = graph.constant(weight_id)?.clone();
    let bias = match bias_id {
        Some(id) => Some(graph.constant(id)?.clone()),
        None => None,
    };

    let channels = gamma.len();
    let factors: Vec<f64> =
        (0..channels).map(|c| f64::from(gamma[c]) / (f64::from(variance[c]) + f64::from(eps)).sqrt()).collect();
    let per_row = weight.len() / channels;
    let folded_weight: Vec<f32> = weight
        .iter()
        .enumerate()
        .map(|(i, w)| (f64::from(*w) * factors[if by_row { i / per_row } else { i % channels }]) as f32)
        .collect();
    let folded_bias: Vec<f32> = (0..channels)
        .map(|c| {
            let before = bias.as_ref().map_or(0.0, |b| f64::from(b[c]));
            ((before - f64::from(mean[c])) * factors[c] + f64::from(beta[c])) as f32
        })
        .collect();

    let name = graph.nodes[source].name.clone();
    let shape = graph.values[weight_id.0].shape.clone();
    let folded_weight = graph.add_constant(format!("{name}.weight·bn"), shape, folded_weight);
    let folded_bias = graph.add_constant(format!("{name}.bias·bn"), vec![channels], folded_bias);
    let mut merged = graph.nodes[source].clone();
    set_input(&mut merged.inputs, Slot::Weight, folded_weight);
    set_input(&mut merged.inputs, Slot::Bias, folded_bias);
    match &mut merged.op {
        Op::Conv(spec) => spec.epilogue.bias = true,
        Op::Gemm(spec) => spec.epilogue.bias = true,
        _ => {}
    }
    merged.outputs = vec![out];
    graph.replace(&[source, norm], vec![merged]);
    Some(())
}

fn plain(bias: bool) -> segface_kernels::Epilogue {
    segface_kernels::Epilogue { bias, ..Default::default() }
}

fn set_input(inputs: &mut Vec<(Slot, ValueId)>, slot: Slot, value: ValueId) {
    match inputs.iter_mut().find(|(s, _)| *s == slot) {
        Some(entry) => entry.1 = value,
        None => inputs.push((slot, value)),
    }
}
