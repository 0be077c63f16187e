//! Reverse-mode differentiation: the nodes backwards, each gives the gradients of its operands from that of its result.
//!
//! A value's gradient is the sum of what its readers give. The second reader's kernel adds to what the first has left
//! ([`Slot::Residual`]), in place where the memory plan allows; additions alone need no kernel, as their operands' gradients are the
//! result's own.

use super::BackwardOp;
use crate::ir::{Graph, Node, Op, Slot, Source, ValueId};
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::gemm::Prologue;
use segface_kernels::loss::LossSpec;
use segface_kernels::{DType, Epilogue};

/// Appends the loss of `logits` and the gradients of every parameter of which `trained` says so. The graph must consist of plain operators.
///
/// # Errors
/// Names the operator that cannot be differentiated.
pub fn differentiate(
    graph: &mut Graph,
    logits: ValueId,
    loss: LossSpec,
    trained: &dyn Fn(&str) -> bool,
) -> Result<(), String> {
    let mut needs: Vec<bool> = graph
        .values
        .iter()
        .map(|value| match &value.source {
            Source::Weight(recipe) => recipe.tensors.iter().any(|tensor| trained(&tensor.name)),
            _ => false,
        })
        .collect();
    for node in &graph.nodes {
        let any = node.inputs.iter().any(|(_, value)| needs[value.0]);
        node.outputs.iter().for_each(|output| needs[output.0] = any);
    }
    let mut backward = Backward { shares: vec![Vec::new(); needs.len()], needs, graph };
    let seed = backward.emit("loss", BackwardOp::Loss(loss), vec![(Slot::X, logits)], &[logits])[0];
    backward.shares[logits.0].push(seed);
    let forward: Vec<Node> = backward.graph.nodes[..backward.graph.nodes.len() - 1].to_vec();
    for node in forward.iter().rev() {
        backward.node(node)?;
    }
    for index in 0..backward.shares.len() {
        let value = ValueId(index);
        let parameter = matches!(backward.graph.values[index].source, Source::Weight(_)) && backward.needs[index];
        if let Some(gradient) = parameter.then(|| backward.total(value)).flatten() {
            let (name, len) = (backward.graph.values[index].name.clone(), backward.graph.values[index].len());
            let inputs = vec![(Slot::Gradient, gradient), (Slot::Weight, value)];
            backward.emit(&name, BackwardOp::Parameter { len }, inputs, &[]);
        }
    }
    Ok(())
}

struct Backward<'a> {
    graph: &'a mut Graph,
    /// Whether a value depends on something that is trained.
    needs: Vec<bool>,
    /// What readers have given to each value's gradient so far.
    shares: Vec<Vec<ValueId>>,
}

impl Backward<'_> {
    fn needs(&self, value: Option<ValueId>) -> bool {
        value.is_some_and(|value| self.needs[value.0])
    }

    fn needs_slot(&self, node: &Node, slot: Slot) -> bool {
        self.needs(node.input(slot))
    }

    /// Adds a node whose results are gradients of `targets`.
    fn emit(&mut self, name: &str, op: BackwardOp, inputs: Vec<(Slot, ValueId)>, targets: &[ValueId]) -> Vec<ValueId> {
        self.emit_op(name, Op::Backward(op), inputs, targets)
    }

    fn emit_op(&mut self, name: &str, op: Op, inputs: Vec<(Slot, ValueId)>, targets: &[ValueId]) -> Vec<ValueId> {
        let outputs: Vec<ValueId> = targets
            .iter()
            .map(|target| {
                let value = &self.graph.values[target.0];
                let (name, shape) = (format!("d {}", value.name), value.shape.clone());
                self.graph.add_intermediate(name, shape, DType::F32)
            })
            .collect();
        let node = Node { name: format!("d {name}"), op, inputs, outputs: outputs.clone() };
        self.graph.nodes.push(node);
        outputs
    }

    /// Adds a node with one result, the gradient of `target`, which starts from the share that is there.
    fn give(&mut self, name: &str, op: BackwardOp, mut inputs: Vec<(Slot, ValueId)>, target: ValueId) {
        if let Some(share) = self.shares[target.0].pop() {
            inputs.push((Slot::Residual, share));
        }
        let gradient = self.emit(name, op, inputs, &[target])[0];
        self.shares[target.0].push(gradient);
    }

    /// The gradient of a value: the sum of all shares.
    fn total(&mut self, value: ValueId) -> Option<ValueId> {
        let shares = std::mem::take(&mut self.shares[value.0]);
        let name = self.graph.values[value.0].name.clone();
        let (channels, len) = {
            let value = &self.graph.values[value.0];
            (value.shape.last().copied().unwrap_or(1), value.len())
        };
        shares.into_iter().reduce(|sum, share| {
            let rows = len / channels.max(1);
            let op = ElementwiseOp::Add { other_rows: rows };
            let spec = ElementwiseSpec { rows, channels, op };
            let inputs = vec![(Slot::X, sum), (Slot::Other, share)];
            self.emit_op(&format!("{name}.sum"), Op::Elementwise(spec), inputs, &[value])[0]
        })
    }

    /// Slots of the forward node that stand in the backward node too.
    fn kept(node: &Node, slots: &[Slot]) -> Vec<(Slot, ValueId)> {
        slots.iter().filter_map(|slot| node.input(*slot).map(|value| (*slot, value))).collect()
    }

    fn node(&mut self, node: &Node) -> Result<(), String> {
        let Some(d_out) = self.total(node.outputs[0]) else { return Ok(()) };
        if !self.needs[node.outputs[0].0] {
            return Ok(());
        }
        let unsupported = || Err(format!("{} ({}) has no gradient", node.name, crate::explain::operator(&node.op)));
        let gradient = (Slot::Gradient, d_out);
        let x = node.input(Slot::X);
        let name = node.name.as_str();
        let with = |slots: &[Slot]| [&[gradient][..], &Self::kept(node, slots)].concat();
        match node.op {
            Op::Gemm(spec) => {
                let plain = Epilogue { bias: spec.epilogue.bias, ..Epilogue::default() };
                if spec.prologue != Prologue::None || spec.epilogue != plain {
                    return unsupported();
                }
                self.product(node, gradient, BackwardOp::GemmWeight(spec), BackwardOp::GemmInput { spec, act: None });
            }
            Op::Conv(spec) => {
                let plain = Epilogue { bias: spec.epilogue.bias, ..Epilogue::default() };
                if spec.epilogue != plain {
                    return unsupported();
                }
                self.product(node, gradient, BackwardOp::ConvWeight(spec), BackwardOp::ConvInput(spec));
            }
            Op::Depthwise(spec) => {
                if self.needs_slot(node, Slot::Weight) {
                    let inputs = with(&[Slot::X, Slot::Weight, Slot::Bias]);
                    self.emit(name, BackwardOp::DepthwiseWeight(spec), inputs, &[]);
                }
                if let Some(x) = x.filter(|x| self.needs[x.0]) {
                    self.give(name, BackwardOp::DepthwiseInput(spec), with(&[Slot::Weight]), x);
                }
            }
            Op::BatchNorm(spec) => {
                let mut inputs = with(&[Slot::X, Slot::NormWeight, Slot::NormBias]);
                inputs.extend([(Slot::Mean, node.outputs[1]), (Slot::Scale, node.outputs[2])]);
                self.give(name, BackwardOp::BatchNorm(spec), inputs, x.ok_or("a batch norm without x")?);
            }
            Op::Elementwise(spec) => return self.elementwise(node, spec, gradient),
            Op::StochasticDepth(_) => {
                let Some(x) = x else { return unsupported() };
                let share = self.emit_op(name, node.op, vec![(Slot::X, d_out)], &[x])[0];
                self.shares[x.0].push(share);
            }
            Op::LayerNorm(spec) => {
                let inputs = with(&[Slot::X, Slot::NormWeight, Slot::NormBias]);
                self.give(name, BackwardOp::LayerNorm(spec), inputs, x.ok_or("a layer norm without x")?);
            }
            Op::SqueezeExcite(spec) => {
                let inputs = with(&[Slot::Sums, Slot::Weight, Slot::Bias, Slot::Weight1, Slot::Bias1]);
                let sums = node.input(Slot::Sums).ok_or("a gate without sums")?;
                self.give(name, BackwardOp::SqueezeExcite(spec), inputs, sums);
            }
            Op::Attention(spec) => {
                let operands = [Slot::Query, Slot::Key, Slot::Value].map(|slot| node.input(slot));
                let [Some(q), Some(k), Some(v)] = operands else { return unsupported() };
                let batch = |value: ValueId| self.graph.values[value.0].shape[0];
                let shared = [q, k, v].map(|value| batch(value) < spec.batch);
                let inputs = with(&[Slot::Query, Slot::Key, Slot::Value]);
                let gradients = self.emit(name, BackwardOp::Attention { spec, shared }, inputs, &[q, k, v]);
                for (value, gradient) in [q, k, v].into_iter().zip(gradients) {
                    self.shares[value.0].push(gradient);
                }
            }
            Op::MaskProduct(spec) => {
                let (Some(u), Some(hyper)) = (x, node.input(Slot::Hyper)) else { return unsupported() };
                let inputs = with(&[Slot::X, Slot::Hyper]);
                let gradients = self.emit(name, BackwardOp::MaskProduct(spec), inputs, &[u, hyper]);
                self.shares[u.0].push(gradients[0]);
                self.shares[hyper.0].push(gradients[1]);
            }
            Op::MaskHead(spec) => {
                let (Some(x), Some(hyper)) = (x, node.input(Slot::Hyper)) else { return unsupported() };
                let mut inputs = with(&[
                    Slot::X,
                    Slot::Weight,
                    Slot::Bias,
                    Slot::NormWeight,
                    Slot::NormBias,
                    Slot::Weight1,
                    Slot::Bias1,
                    Slot::Hyper,
                ]);
                inputs.extend(self.shares[x.0].pop().map(|share| (Slot::Residual, share)));
                let gradients = self.emit(name, BackwardOp::MaskHead(spec), inputs, &[x, hyper]);
                self.shares[x.0].push(gradients[0]);
                self.shares[hyper.0].push(gradients[1]);
            }
            Op::Concat(spec) => {
                let operands = [Slot::X, Slot::X1, Slot::X2, Slot::X3].map(|slot| node.input(slot));
                let targets: Vec<ValueId> = operands.into_iter().flatten().collect();
                let gradients = self.emit(name, BackwardOp::Concat(spec), vec![gradient], &targets);
                for (value, gradient) in targets.into_iter().zip(gradients) {
                    self.shares[value.0].push(gradient);
                }
            }
            Op::WindowGather(spec) => {
                // What was padded has no gradient: the real rows go back to their places.
                let spec = segface_kernels::window_attention::WindowScatterSpec {
                    batch: spec.batch,
                    plan: spec.plan,
                    channels: spec.channels,
                };
                let Some(x) = x else { return unsupported() };
                let share = self.emit_op(name, Op::WindowScatter(spec), vec![(Slot::X, d_out)], &[x])[0];
                self.shares[x.0].push(share);
            }
            Op::WindowScatter(spec) => {
                let spec = segface_kernels::window_attention::WindowGatherSpec {
                    batch: spec.batch,
                    plan: spec.plan,
                    channels: spec.channels,
                };
                let Some(x) = x else { return unsupported() };
                let share = self.emit_op(name, Op::WindowGather(spec), vec![(Slot::X, d_out)], &[x])[0];
                self.shares[x.0].push(share);
            }
            Op::WindowCore(spec) => {
                let inputs = with(&[Slot::X, Slot::ScoreScale, Slot::ScoreBias]);
                self.give(name, BackwardOp::WindowCore(spec), inputs, x.ok_or("an attention without qkv")?);
            }
            Op::MaxPool(spec) => {
                let mut inputs = with(&[Slot::X]);
                inputs.push((Slot::Other, node.outputs[0]));
                self.give(name, BackwardOp::MaxPool(spec), inputs, x.ok_or("a pool without x")?);
            }
            Op::SumPool(spec) => self.give(name, BackwardOp::SumPool(spec), vec![gradient], x.ok_or("no x")?),
            Op::Bilinear(spec) => self.give(name, BackwardOp::Bilinear(spec), vec![gradient], x.ok_or("no x")?),
            Op::PixelShuffle(spec) => self.give(name, BackwardOp::PixelShuffle(spec), vec![gradient], x.ok_or("no x")?),
            Op::PatchGather(spec) => self.give(name, BackwardOp::PatchGather(spec), vec![gradient], x.ok_or("no x")?),
            _ => return unsupported(),
        }
        Ok(())
    }

    /// A product of x and a weight.
    fn product(&mut self, node: &Node, gradient: (Slot, ValueId), of_weight: BackwardOp, of_input: BackwardOp) {
        let trained: Vec<Slot> =
            [Slot::Weight, Slot::Bias].into_iter().filter(|slot| self.needs_slot(node, *slot)).collect();
        if !trained.is_empty() {
            let inputs = [&[gradient][..], &Self::kept(node, &[Slot::X]), &Self::kept(node, &trained)].concat();
            self.emit(&node.name, of_weight, inputs, &[]);
        }
        if let Some(x) = node.input(Slot::X).filter(|x| self.needs[x.0]) {
            let inputs = [&[gradient][..], &Self::kept(node, &[Slot::Weight])].concat();
            self.give(&node.name, of_input, inputs, x);
        }
    }

    fn elementwise(&mut self, node: &Node, spec: ElementwiseSpec, gradient: (Slot, ValueId)) -> Result<(), String> {
        let x = node.input(Slot::X).ok_or("an elementwise operator without x")?;
        let name = node.name.as_str();
        match spec.op {
            ElementwiseOp::Act(_) => {
                self.give(name, BackwardOp::Act(spec), vec![gradient, (Slot::X, x)], x);
            }
            ElementwiseOp::Add { other_rows } => {
                let other = node.input(Slot::Other).ok_or("an addition without other")?;
                if self.needs[other.0] && other_rows < spec.rows {
                    let op = BackwardOp::Repeat { len: spec.len(), other_len: other_rows * spec.channels };
                    self.give(name, op, vec![gradient], other);
                } else if self.needs[other.0] {
                    self.shares[other.0].push(gradient.1);
                }
                if self.needs[x.0] {
                    self.shares[x.0].push(gradient.1);
                }
            }
            ElementwiseOp::Scale | ElementwiseOp::Gate { .. } => {
                let (slot, op) = match spec.op {
                    ElementwiseOp::Scale => (Slot::Scale, BackwardOp::Scale(spec)),
                    _ => (Slot::Gate, BackwardOp::Gate(spec)),
                };
                let factor = node.input(slot).ok_or("a product without factor")?;
                if self.needs[factor.0] {
                    match slot {
                        // A parameter: its gradient is the executor's.
                        Slot::Scale => {
                            self.emit(name, op, vec![(Slot::X, x), gradient, (slot, factor)], &[]);
                        }
                        _ => self.give(name, op, vec![(Slot::X, x), gradient], factor),
                    }
                }
                if self.needs[x.0] {
                    let inputs = vec![(Slot::X, gradient.1), (slot, factor)];
                    let share = self.emit_op(name, node.op, inputs, &[x])[0];
                    self.shares[x.0].push(share);
                }
            }
            ElementwiseOp::BatchNorm { .. } => {
                return Err(format!(
                    "{name} normalises by stored statistics, through which no gradient is implemented"
                ));
            }
        }
        Ok(())
    }
}
