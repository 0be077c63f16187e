//! Which nodes of a training step's graph make up the blocks that libtorch can run instead: the four stages of the backbone, and the decoder.

use crate::engine::EngineError;
use segface_codegen::grad::{BackwardOp, Training};
use segface_codegen::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_codegen::weights::Recipe;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What libtorch computes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A tap from the one before it, or from the image.
    Stage(usize),
    /// Logits from the taps.
    Decoder,
}

impl Part {
    pub(super) fn name(self) -> String {
        match self {
            Part::Stage(stage) => format!("stage{}", stage + 1),
            Part::Decoder => "decoder".into(),
        }
    }
}

/// A value that comes into a block.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) value: ValueId,
    /// Shares of its gradient that are there before, to which the block's is added.
    pub(super) given: Vec<ValueId>,
    /// Where its gradient goes; nowhere, if nobody wants it.
    pub(super) wanted: Option<ValueId>,
    /// Whether it still lies in its place when the block's backward pass begins.
    pub(super) kept: bool,
}

/// One block.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) part: Part,
    pub(super) forward: Range<usize>,
    /// Empty, if nothing of it is trained.
    pub(super) backward: Range<usize>,
    /// Nodes at the end of the graph that add to gradients of its parameters.
    pub(super) behind: Vec<usize>,
    pub(super) inputs: Vec<Input>,
    pub(super) output: ValueId,
    /// Shares of the output's gradient.
    pub(super) gradients: Vec<ValueId>,
    /// Names of the tensors that it reads.
    pub(super) tensors: BTreeSet<String>,
    /// Number of its first residual branch in the network.
    pub(super) place: u32,
}

/// The blocks of a step, in order.
///
/// # Errors
/// If the graph is not what networks of this family become, with a value that crosses the border of a block elsewhere than expected.
pub(super) fn blocks(training: &Training) -> Result<Vec<Block>, EngineError> {
    find(&training.graph).map_err(|reason| EngineError::Broken { reason: format!("it has no blocks: {reason}") })
}

fn find(graph: &Graph) -> Result<Vec<Block>, String> {
    let is_loss = |node: &Node| matches!(node.op, Op::Backward(BackwardOp::Loss(_)));
    let loss = graph.nodes.iter().position(is_loss).ok_or("it has no loss")?;
    let logits = graph.nodes[loss].input(Slot::X).ok_or("its loss has no logits")?;
    let image = graph.values.iter().position(|value| matches!(value.source, Source::Input)).ok_or("it has no input")?;
    let (mut start, mut from, mut found) = (0, vec![ValueId(image)], Vec::new());
    let taps = taps(graph, loss)?;
    for (stage, &(tap, end)) in taps.iter().enumerate() {
        found.push((Part::Stage(stage), start..end + 1, from, tap));
        (start, from) = (end + 1, vec![tap]);
    }
    let taps: Vec<ValueId> = taps.into_iter().map(|(tap, _)| tap).collect();
    found.push((Part::Decoder, start..loss, taps, logits));
    let backward =
        Backward::of(graph, loss, &found.iter().map(|(_, forward, ..)| forward.clone()).collect::<Vec<_>>())?;
    let block = |(index, (part, forward, inputs, output)): (usize, (Part, Range<usize>, Vec<ValueId>, ValueId))| {
        let inputs = inputs.into_iter().map(|value| Input { value, given: Vec::new(), wanted: None, kept: false });
        let mut block = Block {
            part,
            tensors: tensors(graph, &forward).map(|(_, name)| name.to_owned()).collect(),
            place: match part {
                Part::Stage(0) => 0,
                // Branches of the first block are never dropped, those of all later ones are.
                _ => graph.nodes[forward.clone()].iter().filter_map(place).min().unwrap_or(0),
            },
            forward,
            backward: backward.ranges[index].clone(),
            behind: backward.behind[index].clone(),
            inputs: inputs.collect(),
            output,
            gradients: Vec::new(),
        };
        block.connect(graph, loss)?;
        Ok(block)
    };
    found.into_iter().enumerate().map(block).collect()
}

fn place(node: &Node) -> Option<u32> {
    match node.op {
        Op::StochasticDepth(spec) => Some(spec.place),
        _ => None,
    }
}

/// What the decoder reads of the backbone, with the nodes that make it.
fn taps(graph: &Graph, loss: usize) -> Result<Vec<(ValueId, usize)>, String> {
    let of_backbone = |node: &Node| node.name.starts_with("backbone.");
    let (mut made, mut taps) = (BTreeMap::new(), BTreeSet::new());
    for (index, node) in graph.nodes[..loss].iter().enumerate() {
        if of_backbone(node) {
            made.extend(node.outputs.iter().map(|output| (*output, index)));
        } else {
            taps.extend(node.inputs.iter().filter_map(|(_, value)| made.get(value).map(|index| (*index, value.0))));
        }
    }
    let taps: Vec<(ValueId, usize)> = taps.into_iter().map(|(index, value)| (ValueId(value), index)).collect();
    if taps.len() != 4 {
        return Err(format!("the decoder reads {} values of the backbone", taps.len()));
    }
    Ok(taps)
}

/// Values made from tensors that the nodes read, with the tensors' names.
fn tensors<'g>(graph: &'g Graph, nodes: &Range<usize>) -> impl Iterator<Item = (ValueId, &'g str)> {
    let values = graph.nodes[nodes.clone()].iter().flat_map(|node| &node.inputs);
    values.flat_map(|(_, value)| {
        let tensors: &[_] = match &graph.values[value.0].source {
            Source::Weight(Recipe { tensors, .. }) => tensors,
            _ => &[],
        };
        tensors.iter().map(|tensor| (*value, &tensor.name[..]))
    })
}

/// Which nodes behind the loss belong to which block.
struct Backward {
    ranges: Vec<Range<usize>>,
    behind: Vec<Vec<usize>>,
}

impl Backward {
    fn of(graph: &Graph, loss: usize, forward: &[Range<usize>]) -> Result<Backward, String> {
        let (mut by_name, mut by_value) = (BTreeMap::new(), BTreeMap::new());
        for (block, nodes) in forward.iter().enumerate() {
            for node in &graph.nodes[nodes.clone()] {
                if by_name.insert(&node.name[..], block).is_some_and(|other| other != block) {
                    return Err(format!("two blocks have a node `{}`", node.name));
                }
            }
            by_value.extend(tensors(graph, nodes).map(|(value, _)| (value, block)));
        }
        let mut ranges: Vec<Range<usize>> = vec![0..0; forward.len()];
        let mut behind = vec![Vec::new(); forward.len()];
        // Sums of shares come before the node that reads them.
        let mut sums = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate().skip(loss + 1) {
            if let Op::Backward(BackwardOp::Parameter { .. }) = node.op {
                let value = node.input(Slot::Weight).ok_or("a gradient without its parameter")?;
                let block = by_value.get(&value).ok_or_else(|| format!("nobody reads `{}`", node.name))?;
                behind[*block].append(&mut sums);
                behind[*block].push(index);
                continue;
            }
            let Some(&block) = node.name.strip_prefix("d ").and_then(|name| by_name.get(name)) else {
                if !(matches!(node.op, Op::Elementwise(_)) && node.name.ends_with(".sum")) {
                    return Err(format!("`{}` belongs to no block", node.name));
                }
                sums.push(index);
                continue;
            };
            let first = sums.first().copied().unwrap_or(index);
            sums.clear();
            let range = &mut ranges[block];
            if range.start == range.end {
                *range = first..index + 1;
            } else if range.end == first {
                range.end = index + 1;
            } else {
                return Err(format!("`{}` is apart from its block", node.name));
            }
        }
        Ok(Backward { ranges, behind })
    }
}

impl Block {
    /// Whether a node is the block's.
    fn holds(&self, index: usize) -> bool {
        self.forward.contains(&index) || self.backward.contains(&index) || self.behind.contains(&index)
    }

    /// Finds the gradients that come and go, and makes sure that nothing else crosses the border.
    fn connect(&mut self, graph: &Graph, loss: usize) -> Result<(), String> {
        let mut made: BTreeMap<ValueId, usize> = BTreeMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            made.extend(node.outputs.iter().map(|output| (*output, index)));
        }
        let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
        let name = |value: ValueId| &graph.values[value.0].name[..];
        let is_gradient = |gradient: ValueId, of: ValueId| name(gradient).strip_prefix("d ") == Some(name(of));
        for (index, node) in graph.nodes.iter().enumerate() {
            for &(_, value) in &node.inputs {
                last.insert(value, index);
                let inside = made.get(&value).is_some_and(|&index| self.holds(index));
                let weight = matches!(graph.values[value.0].source, Source::Weight(_));
                if weight || inside == self.holds(index) {
                    continue;
                }
                let of_forward = made.get(&value).is_none_or(|&index| index < loss);
                if inside {
                    let input = self.inputs.iter_mut().find(|input| is_gradient(value, input.value));
                    match input {
                        _ if value == self.output => {}
                        Some(input) if !of_forward && input.wanted.is_none_or(|wanted| wanted == value) => {
                            input.wanted = Some(value);
                        }
                        _ => return Err(format!("`{}` of {} is read elsewhere", name(value), self.part.name())),
                    }
                } else if of_forward {
                    if !self.inputs.iter().any(|input| input.value == value) {
                        return Err(format!("{} reads `{}`", self.part.name(), name(value)));
                    }
                } else if is_gradient(value, self.output) {
                    add(&mut self.gradients, value);
                } else if let Some(input) = self.inputs.iter_mut().find(|input| is_gradient(value, input.value)) {
                    add(&mut input.given, value);
                } else {
                    return Err(format!("{} reads `{}`", self.part.name(), name(value)));
                }
            }
        }
        // What comes in must not also go round: a share that passes by unchanged would be counted twice.
        let coming = self.inputs.iter().flat_map(|input| &input.given).chain(&self.gradients);
        for value in coming {
            let read = |(index, node): (usize, &Node)| {
                !self.holds(index) && node.inputs.iter().any(|(_, input)| input == value)
            };
            if graph.nodes.iter().enumerate().any(read) {
                return Err(format!("`{}` is read beside {}", name(*value), self.part.name()));
            }
        }
        let begin = self.backward.start;
        for input in &mut self.inputs {
            input.kept = last.get(&input.value).is_some_and(|&last| last >= begin);
        }
        Ok(())
    }
}

fn add(values: &mut Vec<ValueId>, value: ValueId) {
    if !values.contains(&value) {
        values.push(value);
    }
}
