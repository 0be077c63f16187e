//! What does not depend on the image is computed once, here, in f64.
//!
//! In SegFace that is layer 0's self-attention of the class tokens with its norm, and the sums of tokens with their own
//! positional encoding: the tokens are weights, not functions of the image.

use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_kernels::attention::AttentionSpec;
use segface_kernels::elementwise::ElementwiseOp;
use segface_kernels::gemm::Prologue;
use segface_kernels::{Act, DType, Epilogue};
use std::sync::Arc;

/// Replaces every node whose operands are all known, and that is cheap to keep, by its result.
pub(super) fn fold_constants(graph: &mut Graph) -> usize {
    let mut folded = 0;
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = &graph.nodes[index];
        match evaluate(graph, node) {
            Some(result) => {
                let out = &mut graph.values[node.outputs[0].0];
                out.dtype = DType::F32;
                out.source = Source::Constant(Arc::from(result));
                graph.nodes.remove(index);
                folded += 1;
            }
            None => index += 1,
        }
    }
    folded
}

/// The node's result if all its operands are known and it is one of the operators of the token side.
fn evaluate(graph: &Graph, node: &Node) -> Option<Vec<f32>> {
    let known = |slot: Slot| -> Option<&[f32]> { graph.constant(node.input(slot)?).map(|data| &data[..]) };
    if node.inputs.iter().any(|(_, value)| graph.constant(*value).is_none()) {
        return None;
    }
    let result = match node.op {
        Op::Gemm(spec) => {
            let plain = Epilogue { bias: spec.epilogue.bias, ..Epilogue::default() };
            if spec.prologue != Prologue::None || spec.epilogue != plain {
                return None;
            }
            linear(known(Slot::X)?, known(Slot::Weight)?, known(Slot::Bias), spec.rows, spec.n, spec.k)
        }
        Op::Attention(spec) => attention(&spec, known(Slot::Query)?, known(Slot::Key)?, known(Slot::Value)?)?,
        Op::LayerNorm(spec) => layer_norm(
            known(Slot::X)?,
            known(Slot::NormWeight)?,
            known(Slot::NormBias)?,
            spec.channels,
            f64::from(spec.eps),
        ),
        Op::Elementwise(spec) => match spec.op {
            ElementwiseOp::Add { other_rows } => {
                let (x, other) = (known(Slot::X)?, known(Slot::Other)?);
                let period = other_rows * spec.channels;
                x.iter().enumerate().map(|(i, v)| v + other[i % period]).collect()
            }
            ElementwiseOp::Act(Act::Relu) => known(Slot::X)?.iter().map(|v| v.max(0.0)).collect(),
            _ => return None,
        },
        _ => return None,
    };
    debug_assert_eq!(result.len(), graph.values[node.outputs[0].0].len());
    Some(result)
}

/// x [rows, k] · weight [n, k]ᵀ + bias, sums in f64.
pub(crate) fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, rows: usize, n: usize, k: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * n);
    for row in x.chunks_exact(k).take(rows) {
        for j in 0..n {
            let products = row.iter().zip(&weight[j * k..(j + 1) * k]).map(|(a, b)| f64::from(*a) * f64::from(*b));
            out.push((products.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[j]))) as f32);
        }
    }
    out
}

fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], channels: usize, eps: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(channels) {
        let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / channels as f64;
        let variance = row.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / channels as f64;
        let inverse = 1.0 / (variance + eps).sqrt();
        out.extend(row.iter().zip(weight.iter().zip(bias)).map(|(v, (gamma, beta))| {
            ((f64::from(*v) - mean) * inverse * f64::from(*gamma) + f64::from(*beta)) as f32
        }));
    }
    out
}

/// Attention of one image. The batch of a graph of constants is one.
fn attention(spec: &AttentionSpec, q: &[f32], k: &[f32], v: &[f32]) -> Option<Vec<f32>> {
    if spec.batch != 1 {
        return None;
    }
    let width = spec.heads * spec.head_dim;
    let mut out = vec![0.0f32; spec.queries * width];
    for head in 0..spec.heads {
        let columns = head * spec.head_dim..(head + 1) * spec.head_dim;
        for i in 0..spec.queries {
            let query = &q[i * width..][columns.clone()];
            let scores: Vec<f64> = (0..spec.keys)
                .map(|j| {
                    let key = &k[j * width..][columns.clone()];
                    let dot: f64 = query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    dot * f64::from(spec.scale)
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (offset, column) in columns.clone().enumerate() {
                let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(v[j * width + column])).sum();
                out[i * width + head * spec.head_dim + offset] = (sum / total) as f32;
            }
        }
    }
    Some(out)
}

/// Numbers of a constant, or `None` if the value is not known.
pub(crate) fn numbers(graph: &Graph, value: ValueId) -> Option<Arc<[f32]>> {
    graph.constant(value).cloned()
}
