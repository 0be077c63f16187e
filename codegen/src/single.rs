//! A graph of one operator: how tests, benches and profiles run a kernel by itself.

use crate::ir::{Graph, Node, Op, Output, Slot, Source, Value, ValueId};
use crate::passes::lower_precision::result_type;
use crate::signature::signature;
use segface_kernels::DType;
use std::sync::Arc;

impl Graph {
    /// `op` alone, over constant operands (slot, shape, numbers). Its results are given out as [`Output::Stage`] 0, 1, …; where
    /// activations are of type `activation` they have the types that a whole network would give them.
    ///
    /// # Errors
    /// What does not fit about the operator or its operands.
    pub fn single(op: Op, operands: &[(Slot, &[usize], &[f32])], activation: DType) -> Result<Graph, String> {
        let mut graph = Graph::default();
        // A graph has an input, if only one that nothing reads.
        let nothing = Value { name: "nothing".into(), shape: vec![1; 4], dtype: activation, source: Source::Input };
        graph.values.push(nothing);
        let mut inputs = Vec::new();
        for (slot, shape, numbers) in operands {
            inputs.push((*slot, ValueId(graph.values.len())));
            let source = Source::Constant(Arc::from(*numbers));
            graph.values.push(Value { name: format!("{slot:?}"), shape: shape.to_vec(), dtype: DType::F32, source });
        }
        let mut outputs = Vec::new();
        for (index, len) in signature(&op)?.results.into_iter().enumerate() {
            let value = ValueId(graph.values.len());
            let dtype = result_type(&op, index, activation);
            graph.values.push(Value { name: format!("result {index}"), shape: vec![len], dtype, source: Source::Node });
            graph.outputs.push((Output::Stage(index), value));
            outputs.push(value);
        }
        graph.nodes.push(Node { name: crate::explain::operator(&op).into(), op, inputs, outputs });
        crate::check::check(&graph).map_err(|violations| violations.to_string())?;
        Ok(graph)
    }

    /// The operands that `op` must have, with the number of elements of each.
    ///
    /// # Errors
    /// What is wrong with the operator itself.
    pub fn required_operands(op: &Op) -> Result<Vec<(Slot, usize)>, String> {
        Ok(signature(op)?.required)
    }
}
