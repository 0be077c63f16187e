//! Activations become bf16. What is small and decides much stays f32: channel sums and gates, the class tokens between the
//! fused passes, logits. Accumulators, softmax and norm statistics are f32 inside every kernel anyway.

use crate::ir::{Graph, Node, Op, Slot, Source};
use segface_kernels::DType;
use segface_kernels::elementwise::ConvertSpec;

/// Element type an operand must have where activations are of type `activation`; `None` for constants that the kernel takes
/// in its own format (weights, norms, biases), whose type is not the graph's business.
pub fn operand_type(op: &Op, slot: Slot, activation: DType) -> Option<DType> {
    use Slot::*;
    match (op, slot) {
        (Op::SqueezeExcite(_), Sums) => Some(DType::F32),
        (Op::ArgMax(_), X) => Some(DType::F32),
        (Op::Convert(spec), X) => Some(spec.from),
        (Op::TokenStep(_), X | Pe | Pooled) => Some(DType::F32),
        (Op::ImagePass(_), Pe | UpdateScores | UpdateScoreBias | UpdateValues | AttendScores) => Some(DType::F32),
        (Op::Backward(op), _) => op.operand_type(slot, activation),
        (_, Gate | Hyper) => Some(DType::F32),
        (_, X | X1 | X2 | X3 | Other | Query | Key | Value | Residual) => Some(activation),
        _ => None,
    }
}

/// Element type of output `index` of an operator where activations are of type `activation`.
pub fn result_type(op: &Op, index: usize, activation: DType) -> DType {
    match op {
        Op::SumPool(_) | Op::SqueezeExcite(_) | Op::TokenStep(_) | Op::MaskProduct(_) => DType::F32,
        Op::Depthwise(_) if index == 1 => DType::F32,
        // Statistics.
        Op::BatchNorm(_) if index > 0 => DType::F32,
        Op::Backward(op) => op.result_type(index, activation),
        Op::ImagePass(spec) if index == usize::from(spec.update) => DType::F32,
        Op::MaskHead(spec) => match spec.output {
            segface_kernels::mask_head::MaskHeadOutput::Logits => DType::F32,
            segface_kernels::mask_head::MaskHeadOutput::Labels => DType::U8,
        },
        Op::ArgMax(_) => DType::U8,
        Op::Convert(spec) => spec.to,
        _ => activation,
    }
}

/// Sets the element type of the input and of everything that nodes compute; where a node takes another type than its
/// operand got (the hypernetwork's product in un-fused plans), a conversion goes between. Returns how many.
pub fn lower_precision(graph: &mut Graph, activation: DType) -> usize {
    for value in &mut graph.values {
        if matches!(value.source, Source::Input) {
            value.dtype = activation;
        }
    }
    for node in &graph.nodes {
        for (index, output) in node.outputs.iter().enumerate() {
            graph.values[output.0].dtype = result_type(&node.op, index, activation);
        }
    }
    let mut conversions = 0;
    let mut index = 0;
    while index < graph.nodes.len() {
        for operand in 0..graph.nodes[index].inputs.len() {
            let (slot, id) = graph.nodes[index].inputs[operand];
            let value = &graph.values[id.0];
            let (from, name, shape) = (value.dtype, value.name.clone(), value.shape.clone());
            let computed = matches!(value.source, Source::Node);
            let Some(to) = operand_type(&graph.nodes[index].op, slot, activation) else { continue };
            if !computed || from == to {
                continue;
            }
            let len = value.len();
            let converted = graph.add_intermediate(format!("{name}·{to:?}"), shape, to);
            graph.nodes[index].inputs[operand].1 = converted;
            let op = Op::Convert(ConvertSpec { len, from, to });
            let node =
                Node { name: format!("{name}.convert"), op, inputs: vec![(Slot::X, id)], outputs: vec![converted] };
            graph.nodes.insert(index, node);
            index += 1;
            conversions += 1;
        }
        index += 1;
    }
    conversions
}
