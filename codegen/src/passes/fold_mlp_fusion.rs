//! MLP fusion is linear, and so is bilinear upsampling, whose weights sum to one. So each tap's 256-wide projection and its
//! slice of the 1×1 fusion product become one matrix at the tap's own resolution:
//!
//! F = W_fuse·concat(up(W_i·x_i + b_i)) = Σ W_fuse,i·b_i + Σ up((W_fuse,i·W_i)·x_i)
//!
//! The 1024-channel concat never exists. Products in f64.

use super::rewrite::{Linear, Uses, as_linear, repeat};
use crate::ir::{Graph, Node, Op, Slot, ValueId};
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::gemm::GemmSpec;
use segface_kernels::resample::BilinearSpec;
use segface_kernels::{DType, Epilogue};

/// Folds the projections of the taps into the fusion product.
pub(super) fn fold_mlp_fusion(graph: &mut Graph) -> usize {
    repeat(graph, |graph, uses| (0..graph.nodes.len()).any(|index| fold(graph, uses, index).is_some()))
}

/// One operand of the concat.
struct Branch {
    linear: Linear,
    upsample: Option<BilinearSpec>,
}

fn fold(graph: &mut Graph, uses: &Uses, concat_index: usize) -> Option<()> {
    let Op::Concat(concat) = graph.nodes[concat_index].op else { return None };
    let node = &graph.nodes[concat_index];
    let fuse = as_linear(graph, uses.sole_reader(node.outputs[0])?)?;
    let slots = [Slot::X, Slot::X1, Slot::X2, Slot::X3];
    let mut members = vec![concat_index, fuse.node];
    let mut branches = Vec::new();
    for slot in slots {
        let mut value = node.input(slot)?;
        uses.sole_reader(value)?;
        let mut producer = uses.producer(value)?;
        let mut upsample = None;
        if let Op::Bilinear(spec) = graph.nodes[producer].op {
            members.push(producer);
            upsample = Some(spec);
            value = graph.nodes[producer].input(Slot::X)?;
            uses.sole_reader(value)?;
            producer = uses.producer(value)?;
        }
        let linear = as_linear(graph, producer)?;
        members.push(linear.node);
        branches.push(Branch { linear, upsample });
    }

    let width = fuse.spec.n;
    let fuse_weight = graph.constant(fuse.weight)?.clone();
    let mut bias = match fuse.bias {
        Some(id) => graph.constant(id)?.iter().map(|b| f64::from(*b)).collect(),
        None => vec![0.0f64; width],
    };
    let mut folded = Vec::new();
    let mut column = 0;
    for (branch, &channels) in branches.iter().zip(&concat.channels) {
        let weight = graph.constant(branch.linear.weight)?;
        let slice = |n: usize, j: usize| f64::from(fuse_weight[n * fuse.spec.k + column + j]);
        folded.push(product(width, channels, branch.linear.spec.k, slice, weight));
        if let Some(id) = branch.linear.bias {
            let own = graph.constant(id)?;
            for (n, total) in bias.iter_mut().enumerate() {
                *total += (0..channels).map(|j| slice(n, j) * f64::from(own[j])).sum::<f64>();
            }
        }
        column += channels;
    }

    // The tap at full resolution carries the bias; the others are upsampled and added, finest first.
    let mut order: Vec<usize> = (0..4).collect();
    order.sort_by_key(|&i| (branches[i].upsample.is_some(), std::cmp::Reverse(branches[i].linear.spec.rows)));
    if branches[order[0]].upsample.is_some() {
        return None;
    }
    let mut nodes = Vec::new();
    let mut sum: Option<ValueId> = None;
    let shape = graph.values[fuse.out.0].shape.clone();
    let rows = fuse.spec.rows;
    let bias: Vec<f32> = bias.into_iter().map(|b| b as f32).collect();
    let bias_id = graph.add_constant("linear_fuse.bias·folded".into(), vec![width], bias);
    for (position, &i) in order.iter().enumerate() {
        let branch = &branches[i];
        let k = branch.linear.spec.k;
        let name = graph.nodes[branch.linear.node].name.clone();
        let weight = graph.add_constant(format!("{name}.weight·fuse"), vec![width, k], std::mem::take(&mut folded[i]));
        let own_shape: Vec<usize> = {
            let mut s = graph.values[branch.linear.out.0].shape.clone();
            *s.last_mut()? = width;
            s
        };
        let projected = graph.add_intermediate(format!("{name}·folded"), own_shape, DType::F32);
        let mut inputs = vec![(Slot::X, branch.linear.x), (Slot::Weight, weight)];
        let with_bias = position == 0;
        if with_bias {
            inputs.push((Slot::Bias, bias_id));
        }
        let spec = GemmSpec {
            rows: branch.linear.spec.rows,
            n: width,
            k,
            prologue: Default::default(),
            epilogue: Epilogue { bias: with_bias, ..Epilogue::default() },
        };
        nodes.push(Node { name: name.clone(), op: Op::Gemm(spec), inputs, outputs: vec![projected] });
        let mut term = projected;
        if let Some(mut up) = branch.upsample {
            up.channels = width;
            term = graph.add_intermediate(format!("{name}·upsampled"), shape.clone(), DType::F32);
            nodes.push(Node {
                name: format!("{name}.upsample"),
                op: Op::Bilinear(up),
                inputs: vec![(Slot::X, projected)],
                outputs: vec![term],
            });
        }
        sum = Some(match sum {
            None => term,
            Some(partial) => {
                let last = position == 3;
                let out = if last {
                    fuse.out
                } else {
                    graph.add_intermediate(format!("linear_fuse.sum{position}"), shape.clone(), DType::F32)
                };
                let op = ElementwiseOp::Add { other_rows: rows };
                nodes.push(Node {
                    name: format!("linear_fuse.add{position}"),
                    op: Op::Elementwise(ElementwiseSpec { rows, channels: width, op }),
                    inputs: vec![(Slot::X, partial), (Slot::Other, term)],
                    outputs: vec![out],
                });
                out
            }
        });
    }
    graph.replace(&members, nodes);
    Some(())
}

/// left [n, j] · right [j, k] in f64, rounded once.
fn product(n: usize, j: usize, k: usize, left: impl Fn(usize, usize) -> f64, right: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(n * k);
    let mut row = vec![0.0f64; k];
    for i in 0..n {
        row.fill(0.0);
        for l in 0..j {
            let factor = left(i, l);
            for (total, value) in row.iter_mut().zip(&right[l * k..(l + 1) * k]) {
                *total += factor * f64::from(*value);
            }
        }
        out.extend(row.iter().map(|v| *v as f32));
    }
    out
}
