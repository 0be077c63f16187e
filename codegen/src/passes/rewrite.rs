//! What every pass needs: who makes and who reads a value, and replacing nodes by others.

use crate::ir::{Graph, Node, Op, Slot, Source, Value, ValueId};
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::gemm::{GemmSpec, Prologue};
use segface_kernels::layer_norm::LayerNormSpec;
use segface_kernels::{Act, DType, Epilogue};
use std::sync::Arc;

/// Producers and readers of every value of a graph, as node indices.
pub(crate) struct Uses {
    producer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    given_out: Vec<bool>,
}

impl Uses {
    pub(crate) fn of(graph: &Graph) -> Self {
        let count = graph.values.len();
        let mut uses =
            Uses { producer: vec![None; count], readers: vec![Vec::new(); count], given_out: vec![false; count] };
        for (index, node) in graph.nodes.iter().enumerate() {
            for (_, value) in &node.inputs {
                uses.readers[value.0].push(index);
            }
            for value in &node.outputs {
                uses.producer[value.0] = Some(index);
            }
        }
        for (_, value) in &graph.outputs {
            uses.given_out[value.0] = true;
        }
        uses
    }

    /// The node that computes `value`.
    pub(crate) fn producer(&self, value: ValueId) -> Option<usize> {
        self.producer[value.0]
    }

    /// Every node that reads `value`, once per operand.
    pub(crate) fn readers(&self, value: ValueId) -> &[usize] {
        &self.readers[value.0]
    }

    /// The one node that reads `value`, if nothing else does and nobody outside sees it: only then may it disappear.
    pub(crate) fn sole_reader(&self, value: ValueId) -> Option<usize> {
        match self.readers[value.0][..] {
            [reader] if !self.given_out[value.0] => Some(reader),
            _ => None,
        }
    }

    /// Whether `value` is one of the graph's outputs.
    pub(crate) fn is_given_out(&self, value: ValueId) -> bool {
        self.given_out[value.0]
    }
}

impl Graph {
    /// Adds a known value.
    pub(crate) fn add_constant(&mut self, name: String, shape: Vec<usize>, data: Vec<f32>) -> ValueId {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        self.values.push(Value { name, shape, dtype: DType::F32, source: Source::Constant(Arc::from(data)) });
        ValueId(self.values.len() - 1)
    }

    /// Adds a value that some node will compute.
    pub(crate) fn add_intermediate(&mut self, name: String, shape: Vec<usize>, dtype: DType) -> ValueId {
        self.values.push(Value { name, shape, dtype, source: Source::Node });
        ValueId(self.values.len() - 1)
    }

    /// The numbers of a known value.
    pub(crate) fn constant(&self, value: ValueId) -> Option<&Arc<[f32]>> {
        match &self.values[value.0].source {
            Source::Constant(data) => Some(data),
            _ => None,
        }
    }

    /// Removes the nodes `members` and puts `replacement` where the last of them stood: there every operand of theirs is
    /// computed, and nothing before it reads what they leave behind.
    pub(crate) fn replace(&mut self, members: &[usize], replacement: Vec<Node>) {
        let Some(&last) = members.iter().max() else { return };
        let old = std::mem::take(&mut self.nodes);
        let mut replacement = Some(replacement);
        for (index, node) in old.into_iter().enumerate() {
            if index == last {
                self.nodes.extend(replacement.take().into_iter().flatten());
            } else if !members.contains(&index) {
                self.nodes.push(node);
            }
        }
    }
}

impl Graph {
    /// Moves nodes so that every value is computed before it is read, keeping their order otherwise. For rewrites of several
    /// nodes that no single place suits.
    pub(crate) fn restore_order(&mut self) {
        let uses = Uses::of(self);
        let mut old: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        for index in 0..old.len() {
            let mut stack = vec![index];
            while let Some(&top) = stack.last() {
                let Some(node) = &old[top] else {
                    stack.pop();
                    continue;
                };
                let waiting =
                    node.inputs.iter().filter_map(|(_, v)| uses.producer(*v)).find(|p| old[*p].is_some() && *p != top);
                match waiting {
                    Some(producer) => stack.push(producer),
                    None => {
                        self.nodes.extend(old[top].take());
                        stack.pop();
                    }
                }
            }
        }
    }
}

/// Calls `step` until it changes nothing more; it gets fresh [`Uses`] each time. Returns how often it did.
pub(crate) fn repeat(graph: &mut Graph, mut step: impl FnMut(&mut Graph, &Uses) -> bool) -> usize {
    let mut count = 0;
    loop {
        let uses = Uses::of(graph);
        if !step(graph, &uses) {
            return count;
        }
        count += 1;
    }
}

/// A product with nothing around it but perhaps a bias.
pub(crate) struct Linear {
    pub(crate) node: usize,
    pub(crate) x: ValueId,
    pub(crate) weight: ValueId,
    pub(crate) bias: Option<ValueId>,
    pub(crate) out: ValueId,
    pub(crate) spec: GemmSpec,
}

/// Reads node `index` as a plain linear layer.
pub(crate) fn as_linear(graph: &Graph, index: usize) -> Option<Linear> {
    let node = &graph.nodes[index];
    let Op::Gemm(spec) = node.op else { return None };
    let plain = Epilogue { bias: spec.epilogue.bias, ..Epilogue::default() };
    if spec.prologue != Prologue::None || spec.epilogue != plain {
        return None;
    }
    Some(Linear {
        node: index,
        x: node.input(Slot::X)?,
        weight: node.input(Slot::Weight)?,
        bias: node.input(Slot::Bias),
        out: node.outputs[0],
        spec,
    })
}

/// A layer norm with learnt γ and β.
pub(crate) struct Norm {
    pub(crate) node: usize,
    pub(crate) x: ValueId,
    pub(crate) weight: ValueId,
    pub(crate) bias: ValueId,
    pub(crate) out: ValueId,
    pub(crate) spec: LayerNormSpec,
}

/// Reads node `index` as a layer norm.
pub(crate) fn as_norm(graph: &Graph, index: usize) -> Option<Norm> {
    let node = &graph.nodes[index];
    let Op::LayerNorm(spec) = node.op else { return None };
    Some(Norm {
        node: index,
        x: node.input(Slot::X)?,
        weight: node.input(Slot::NormWeight)?,
        bias: node.input(Slot::NormBias)?,
        out: node.outputs[0],
        spec,
    })
}

/// Reads node `index` as the activation `act`; gives (x, out).
pub(crate) fn as_act(graph: &Graph, index: usize) -> Option<(Act, ValueId, ValueId)> {
    let node = &graph.nodes[index];
    let Op::Elementwise(ElementwiseSpec { op: ElementwiseOp::Act(act), .. }) = node.op else { return None };
    Some((act, node.input(Slot::X)?, node.outputs[0]))
}

/// An addition.
pub(crate) struct Sum {
    pub(crate) node: usize,
    pub(crate) x: ValueId,
    pub(crate) other: ValueId,
    pub(crate) out: ValueId,
    /// Whether the other operand is as large as x.
    pub(crate) same_shape: bool,
}

impl Sum {
    /// The operand that is not `value`, if `value` is one of them and not both.
    pub(crate) fn partner(&self, value: ValueId) -> Option<ValueId> {
        match (self.x == value, self.other == value) {
            (true, false) => Some(self.other),
            (false, true) => Some(self.x),
            _ => None,
        }
    }
}

/// Reads node `index` as an addition.
pub(crate) fn as_sum(graph: &Graph, index: usize) -> Option<Sum> {
    let node = &graph.nodes[index];
    let Op::Elementwise(spec) = node.op else { return None };
    let ElementwiseOp::Add { other_rows } = spec.op else { return None };
    Some(Sum {
        node: index,
        x: node.input(Slot::X)?,
        other: node.input(Slot::Other)?,
        out: node.outputs[0],
        same_shape: other_rows == spec.rows,
    })
}
