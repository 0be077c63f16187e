//! What a node costs: floating-point operations and bytes moved.

use crate::grad::BackwardOp;
use crate::ir::{Graph, Node, Op, Slot, Source};
use crate::plan::{Format, constant_format};
use segface_kernels::DType;

/// Operations of one pixel's four-point interpolation in one channel.
const BILINEAR_FLOPS: u64 = 7;

/// Floating-point operations of the products of a backward operator.
fn backward_flops(op: &BackwardOp) -> u64 {
    let product = |factors: &[usize]| 2 * factors.iter().map(|f| *f as u64).product::<u64>();
    match op {
        BackwardOp::GemmInput { spec: g, .. } | BackwardOp::GemmWeight(g) => product(&[g.rows, g.n, g.k]),
        BackwardOp::ConvInput(c) | BackwardOp::ConvWeight(c) => c.flops() as u64,
        BackwardOp::DepthwiseInput(d) | BackwardOp::DepthwiseWeight(d) => d.flops() as u64,
        BackwardOp::Attention { spec, .. } => spec.flops() / 2 * 5,
        // The maps are computed again.
        BackwardOp::MaskHead(m) => 3 * m.flops(),
        BackwardOp::MaskProduct(m) => 2 * m.flops(),
        BackwardOp::WindowCore(w) => w.flops() as u64 / 2 * 5,
        _ => 0,
    }
}

impl Node {
    /// Floating-point operations, two per multiply-add of products; small change (norms, activations, softmax) is left out,
    /// as is customary.
    pub fn flops(&self, graph: &Graph) -> u64 {
        let result = |index: usize| graph.values[self.outputs[index].0].len() as u64;
        let product = |factors: &[usize]| 2 * factors.iter().map(|f| *f as u64).product::<u64>();
        match &self.op {
            Op::Gemm(g) => product(&[g.rows, g.n, g.k]),
            Op::Conv(c) => 2 * result(0) * (c.kernel * c.kernel * c.channels) as u64,
            Op::Depthwise(d) => 2 * result(0) * (d.kernel * d.kernel) as u64,
            Op::SqueezeExcite(q) => 2 * product(&[q.batch, q.squeeze, q.channels]),
            Op::Mlp(m) => 2 * product(&[m.rows, m.channels, m.hidden]),
            Op::PatchMerge(p) => 2 * result(0) * 4 * p.channels as u64,
            Op::WindowAttention(w) => {
                let tokens = w.batch * w.input[0] * w.input[1];
                let area = w.window * w.window;
                // qkv and projection of real tokens; scores and sums of real queries over whole windows.
                product(&[tokens, 4 * w.channels, w.channels]) + product(&[tokens, 2 * area, w.channels])
            }
            Op::WindowCore(w) => {
                let [height, width] = w.plan.padded();
                product(&[w.batch * height * width, 2 * w.plan.window * w.plan.window, w.channels])
            }
            Op::MlpFusion(f) => {
                let products: u64 = f.taps.iter().map(|[h, w, c]| product(&[f.batch * h * w, *c, f.width])).sum();
                products + 3 * BILINEAR_FLOPS * result(0)
            }
            Op::Attention(a) => product(&[a.batch, a.heads, a.queries, a.keys, 2 * a.head_dim]),
            Op::ImagePass(p) => {
                let halves = usize::from(p.update) + usize::from(p.attend);
                product(&[p.batch, p.pixels(), 8 * p.tokens, 2 * 256, halves])
            }
            Op::TokenStep(_) => {
                let matrices = self.inputs.iter().filter(|(slot, _)| {
                    matches!(slot, Slot::Weight | Slot::Weight1 | Slot::Weight2 | Slot::Projection(..))
                });
                let Op::TokenStep(step) = &self.op else { return 0 };
                matrices.map(|(_, v)| product(&[step.batch * step.tokens, graph.values[v.0].len()])).sum()
            }
            Op::MaskHead(m) => {
                let tokens = m.batch * m.input[0] * m.input[1];
                product(&[tokens, 256, 256]) + product(&[tokens, 4 * 64, 128]) + product(&[tokens, 16 * 32, m.classes])
            }
            Op::MaskProduct(m) => product(&[m.batch, m.pixels, 32, m.classes]),
            Op::Bilinear(_) => BILINEAR_FLOPS * result(0),
            Op::Backward(op) => backward_flops(op),
            Op::BatchNorm(_) | Op::StochasticDepth(_) => 0,
            Op::Elementwise(_) | Op::LayerNorm(_) | Op::PatchGather(_) | Op::WindowGather(_) | Op::WindowScatter(_) => {
                0
            }
            Op::ArgMax(_) | Op::Concat(_) | Op::PixelShuffle(_) | Op::MaxPool(_) | Op::SumPool(_) | Op::Convert(_) => 0,
        }
    }

    /// Bytes read and written in memory: every operand once, constants in the form their kernel takes.
    pub fn bytes(&self, graph: &Graph) -> u64 {
        let input = graph.values.iter().find(|v| matches!(v.source, Source::Input));
        let activation = input.map_or(DType::F32, |v| v.dtype);
        let read = self.inputs.iter().map(|(slot, id)| {
            let value = &graph.values[id.0];
            let element = match value.source {
                Source::Node | Source::Input => value.dtype.size(),
                _ => match constant_format(&self.op, *slot, activation) {
                    Format::PackedF32 if !matches!(self.op, Op::TokenStep(_)) => activation.size(),
                    Format::F32 | Format::PackedF32 => 4,
                    Format::Bf16 | Format::PackedBf16 => 2,
                },
            };
            (value.len() * element) as u64
        });
        let written = self.outputs.iter().map(|id| graph.values[id.0].bytes() as u64);
        read.chain(written).sum()
    }
}
