//! The checker: what must hold for a graph at every level. Run after every pass in debug builds, in tests, and on every plan
//! that comes from a file.

use crate::ir::{Graph, Op, Slot, Source};
use crate::passes::lower_precision::{operand_type, result_type};
use crate::signature::signature;
use segface_kernels::DType;
use std::collections::BTreeSet;
use std::fmt;

/// Everything that is wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations(pub Vec<String>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Checks that every operand is there, known before it is read, of the right size and type; that every value is written
/// once; that outputs exist.
///
/// # Errors
/// Lists all violations.
pub fn check(graph: &Graph) -> Result<(), Violations> {
    let mut wrong = Vec::new();
    let count = graph.values.len();
    let stray = |id: &crate::ir::ValueId| id.0 >= count;
    if graph.nodes.iter().any(|n| n.inputs.iter().any(|(_, v)| stray(v)) || n.outputs.iter().any(stray))
        || graph.outputs.iter().any(|(_, v)| stray(v))
    {
        return Err(Violations(vec!["a value is named that does not exist".into()]));
    }
    let inputs: Vec<usize> = (0..count).filter(|&i| matches!(graph.values[i].source, Source::Input)).collect();
    let [input] = inputs[..] else {
        return Err(Violations(vec![format!("{} inputs, expected one", inputs.len())]));
    };
    if graph.values[input].shape.len() != 4 || graph.values[input].shape.contains(&0) {
        wrong.push(format!("the input's shape is {:?}", graph.values[input].shape));
    }
    for value in &graph.values {
        let bytes = value.shape.iter().fold(value.dtype.size(), |p: usize, s| p.saturating_mul(*s));
        if bytes > isize::MAX as usize {
            return Err(Violations(vec![format!("{} is larger than any memory: {:?}", value.name, value.shape)]));
        }
    }
    let activation = graph.values[input].dtype;
    let mut known: Vec<bool> = graph.values.iter().map(|v| !matches!(v.source, Source::Node)).collect();
    for node in &graph.nodes {
        check_node(graph, node, activation, &known, &mut wrong);
        for output in &node.outputs {
            if std::mem::replace(&mut known[output.0], true) {
                wrong.push(format!("{} is written twice", graph.values[output.0].name));
            }
        }
    }
    for (output, value) in &graph.outputs {
        if !known[value.0] || !matches!(graph.values[value.0].source, Source::Node) {
            wrong.push(format!("the output {output:?} is not computed"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Violations(wrong)) }
}

fn check_node(graph: &Graph, node: &crate::ir::Node, activation: DType, known: &[bool], wrong: &mut Vec<String>) {
    let signature = match signature(&node.op) {
        Ok(signature) => signature,
        Err(reason) => return wrong.push(format!("{}: {reason}", node.name)),
    };
    let mut seen: BTreeSet<Slot> = BTreeSet::new();
    for (slot, id) in &node.inputs {
        let value = &graph.values[id.0];
        if !known[id.0] {
            wrong.push(format!("{} reads {} before it is written", node.name, value.name));
        }
        if !seen.insert(*slot) {
            wrong.push(format!("{} has {slot:?} twice", node.name));
        }
        let declared = signature.required.iter().chain(&signature.optional).find(|(s, _)| s == slot);
        let Some(&(_, expected)) = declared else {
            wrong.push(format!("{} does not take {slot:?}", node.name));
            continue;
        };
        if value.len() != expected && !shares_batch(&node.op, *slot, value.len(), expected) {
            let found = value.len();
            wrong.push(format!("{} takes {expected} numbers in {slot:?}, {} has {found}", node.name, value.name));
        }
        let constant = !matches!(value.source, Source::Node | Source::Input);
        match operand_type(&node.op, *slot, activation) {
            None if !constant => wrong.push(format!("{} takes only known values in {slot:?}", node.name)),
            Some(dtype) if !constant && dtype != value.dtype => {
                wrong.push(format!("{} takes {dtype:?} in {slot:?}, {} is {:?}", node.name, value.name, value.dtype));
            }
            _ => {}
        }
    }
    for (slot, _) in signature.required.iter().filter(|(slot, _)| !seen.contains(slot)) {
        wrong.push(format!("{} lacks {slot:?}", node.name));
    }
    if node.outputs.len() != signature.results.len() {
        let (found, expected) = (node.outputs.len(), signature.results.len());
        return wrong.push(format!("{} gives {expected} results, {found} are named", node.name));
    }
    for (index, (output, expected)) in node.outputs.iter().zip(&signature.results).enumerate() {
        let value = &graph.values[output.0];
        if !matches!(value.source, Source::Node) || value.len() != *expected {
            wrong.push(format!("{} writes {expected} numbers, {} has {}", node.name, value.name, value.len()));
        }
        let dtype = result_type(&node.op, index, activation);
        if value.dtype != dtype {
            wrong.push(format!("{} writes {dtype:?}, {} is {:?}", node.name, value.name, value.dtype));
        }
    }
}

/// Attention's operands may be of one image, shared by the batch.
fn shares_batch(op: &Op, slot: Slot, found: usize, expected: usize) -> bool {
    match (op, slot) {
        (Op::Attention(a), Slot::Query | Slot::Key | Slot::Value) => found.checked_mul(a.batch) == Some(expected),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
