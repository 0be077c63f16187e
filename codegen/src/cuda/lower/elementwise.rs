//! Elementwise operators and conversions.

use super::super::kernel::{Argument, KernelText};
use super::{Lowering, act, element_type, literal, vector_width};
use crate::ir::Slot;
use segface_kernels::DType;
use segface_kernels::elementwise::{ConvertSpec, ElementwiseOp, ElementwiseSpec};

/// `elementwise::THREADS`.
const THREADS: usize = 256;

/// One launch.
pub(super) fn elementwise(l: &mut Lowering<'_>, spec: &ElementwiseSpec) {
    let ElementwiseSpec { rows, channels, op } = *spec;
    let dtype = l.precision.dtype();
    let width = vector_width(dtype, &[channels]);
    let mut text = KernelText::new("elementwise", "elementwise/forward.cuh");
    text.define(format!("using E = {};", element_type(dtype)));
    text.block(THREADS, 0, "elementwise::THREADS - 256");
    text.parameter("const E *x", l.element(Slot::X));
    text.parameter("E *out", l.output(0));
    text.parameter("int rows", Argument::I32(rows as i32));
    match op {
        ElementwiseOp::Act(name) => text.line(format!("elementwise::Activation<{}> op;", act(name))),
        ElementwiseOp::Add { other_rows } => {
            text.parameter("const E *other", l.element(Slot::Other));
            text.parameter("int other_rows", Argument::I32(other_rows as i32));
            text.line(format!("elementwise::Add<E, {channels}> op{{other, other_rows}};"));
        }
        ElementwiseOp::Scale | ElementwiseOp::Gate { .. } => {
            let (slot, rows_per_factor) = match op {
                ElementwiseOp::Gate { rows_per_gate } => (Slot::Gate, rows_per_gate),
                _ => (Slot::Scale, rows),
            };
            text.parameter("const float *factors", l.f32(slot));
            text.parameter("int rows_per_factor", Argument::I32(rows_per_factor as i32));
            text.line(format!("elementwise::Scale<{channels}> op{{factors, rows_per_factor}};"));
        }
        ElementwiseOp::BatchNorm { eps } => {
            let slots = [
                ("weight", Slot::NormWeight),
                ("bias", Slot::NormBias),
                ("mean", Slot::Mean),
                ("variance", Slot::Variance),
            ];
            for (name, slot) in slots {
                text.parameter(format!("const float *{name}"), l.f32(slot));
            }
            text.line(format!("elementwise::BatchNorm op{{weight, bias, mean, variance, {}}};", literal(eps)));
        }
    }
    text.line(format!("elementwise::forward<E, {channels}, {width}>(x, out, rows, op);"));
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    let blocks = (rows * channels / width).div_ceil(THREADS);
    l.launch(&text, [blocks as u32, 1, 1], flops, bytes);
}

/// One launch.
pub(super) fn convert(l: &mut Lowering<'_>, spec: &ConvertSpec) {
    let mut text = KernelText::new("convert", "elementwise/forward.cuh");
    text.block(THREADS, 0, "elementwise::THREADS - 256");
    let x = if spec.from == DType::F32 { l.f32(Slot::X) } else { l.element(Slot::X) };
    text.parameter(format!("const {} *x", element_type(spec.from)), x);
    text.parameter(format!("{} *out", element_type(spec.to)), l.output(0));
    text.parameter("int length", Argument::I32(spec.len as i32));
    text.line("elementwise::convert(x, out, length);");
    let (flops, bytes) = (l.node().flops(l.graph), l.node().bytes(l.graph));
    l.launch(&text, [spec.len.div_ceil(8 * THREADS) as u32, 1, 1], flops, bytes);
}
