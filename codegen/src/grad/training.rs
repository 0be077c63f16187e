//! From a network to the graph of a training step.

use super::fuse::{fuse_slopes, merge_equal};
use super::recompute::{Budget, recompute};
use super::{FlatGradients, differentiate};
use crate::ir::{Graph, Node, Op, Output, Slot, Source, ValueId};
use crate::passes::fuse_epilogue::fuse_epilogue;
use crate::passes::fuse_mask_head::fuse_mask_head;
use crate::passes::lower_precision::lower_precision;
use crate::passes::plan_memory::MemoryPlan;
use crate::passes::rewrite::Uses;
use crate::plan::Precision;
use crate::{Backbone, CodegenError, ModelSpec};
use segface_kernels::batch_norm::BatchNormSpec;
use segface_kernels::elementwise::{ElementwiseOp, ElementwiseSpec};
use segface_kernels::loss::LossSpec;
use segface_kernels::stochastic_depth::StochasticDepthSpec;
use segface_kernels::{Act, DType};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a training step is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingOptions {
    /// Images of a micro-batch.
    pub batch: usize,
    /// Height of the input, a multiple of 4.
    pub height: usize,
    /// Width of the input, a multiple of 4.
    pub width: usize,
    /// Whether branches are dropped at torchvision's rates.
    pub stochastic_depth: bool,
    /// What a step gives out beside gradients, for whoever wants to see it.
    pub outputs: Vec<Output>,
}

/// A training step: forward, loss, backward.
#[derive(Debug, Clone)]
pub struct Training {
    /// Which network.
    pub model: ModelSpec,
    /// The calls, in order. Parameters are recipes: their numbers change from step to step.
    pub graph: Graph,
    /// Where values live; behind or among the gradients that the arena begins with.
    pub memory: MemoryPlan,
    /// Bytes of the gradients that the arena begins with.
    pub gradient_bytes: usize,
    /// By node, the parts of them where activations lay until then: they are cleared before it.
    pub begin: BTreeMap<usize, Vec<Range<usize>>>,
    /// Of activations and their gradients.
    pub precision: Precision,
    /// The loss.
    pub loss: LossSpec,
}

/// The training step of a network, with the gradients of every tensor of which `trained` says so. Batch norms whose running mean is trained
/// see their batch; others normalise by what is stored.
///
/// # Errors
/// If the network cannot take that size, or something of it cannot be trained.
pub fn training(
    model: &ModelSpec,
    options: &TrainingOptions,
    trained: &dyn Fn(&str) -> bool,
) -> Result<Training, CodegenError> {
    training_with(model, options, trained, Means::default())
}

/// By what means a step is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// Of activations and their gradients, and of products' factors. Parameters and their gradients, statistics, logits and sums are f32.
    pub precision: Precision,
    /// Bytes that the arena should take at most, besides gradients: what the backward pass reads of the forward pass is computed again where it
    /// does not fit, as far as that helps. It changes no bit of any result.
    pub memory: usize,
    /// Whether memory is saved where that costs little time: activations lie where gradients come to lie later ([`FlatGradients`]), and as long
    /// as `memory` is no limit, what costs [little](FRUGAL_WORK) is computed again. It changes no bit of any result.
    pub frugal: bool,
    /// Whether calls are put together where there is a kernel for both: the CPU's engine has those.
    pub fused: bool,
}

impl Default for Means {
    /// f32, frugal, fused.
    fn default() -> Self {
        Self { precision: Precision::F32, memory: usize::MAX, frugal: true, fused: true }
    }
}

/// The share of a step's work that is done twice to save memory where no limit is given.
pub const FRUGAL_WORK: f64 = 1.0 / 32.0;

/// [`training`] by other means, in an arena that holds no gradients.
///
/// # Errors
/// As [`training`]; a precision that the CPU does not compute in.
pub fn training_with(
    model: &ModelSpec,
    options: &TrainingOptions,
    trained: &dyn Fn(&str) -> bool,
    means: Means,
) -> Result<Training, CodegenError> {
    training_over(model, options, trained, means, &FlatGradients::default())
}

/// The same in an arena that begins with the gradients of what is trained.
///
/// # Errors
/// As [`training_with`].
pub fn training_over(
    model: &ModelSpec,
    options: &TrainingOptions,
    trained: &dyn Fn(&str) -> bool,
    means: Means,
    gradients: &FlatGradients,
) -> Result<Training, CodegenError> {
    if !means.precision.runs_on_cpu() {
        return Err(CodegenError::CpuPrecision { precision: means.precision });
    }
    let &TrainingOptions { batch, height, width, .. } = options;
    let refused = |reason: String| CodegenError::Size { model: *model, batch, height, width, reason };
    if !height.is_multiple_of(4) || !width.is_multiple_of(4) {
        return Err(refused(
            "training needs sides that are multiples of 4, so that logits have the size of labels".into(),
        ));
    }
    let mut graph = crate::models::build_to_train(model, batch, height, width)?;
    train_batch_norms(&mut graph, batch_norm_momentum(model.backbone), trained).map_err(refused)?;
    if means.fused {
        merge_equal(&mut graph);
        fuse_mask_head(&mut graph);
    }
    if options.stochastic_depth {
        drop_branches(&mut graph, model.backbone, batch);
    }
    let logits = graph.outputs.iter().find(|(output, _)| *output == Output::Logits).map(|(_, value)| *value);
    let logits = logits.ok_or_else(|| refused("it has no logits".into()))?;
    graph.outputs.retain(|(output, _)| options.outputs.contains(output));
    let loss = LossSpec { batch, pixels: height * width, classes: model.variant.classes().len() };
    differentiate(&mut graph, logits, loss, trained)
        .map_err(|reason| CodegenError::Training { model: *model, reason })?;
    if means.fused {
        fuse_slopes(&mut graph);
        fuse_epilogue(&mut graph);
    }
    lower_precision(&mut graph, means.precision.dtype());
    let budget = match means.memory {
        usize::MAX if gradients.shared => Budget { bytes: 0, work: FRUGAL_WORK },
        bytes => Budget { bytes, work: f64::INFINITY },
    };
    recompute(&mut graph, gradients, budget);
    debug_assert!(crate::check::check(&graph).is_ok(), "{:?}", crate::check::check(&graph));
    let (memory, begin) = (gradients.plan(&graph), gradients.begin(&graph));
    Ok(Training {
        model: *model,
        graph,
        memory,
        gradient_bytes: gradients.bytes,
        begin,
        precision: means.precision,
        loss,
    })
}

/// torchvision's momentum of the batch norms: the batch's weight in the running statistics.
pub fn batch_norm_momentum(backbone: Backbone) -> f32 {
    if backbone == Backbone::MobileNet { 0.01 } else { 0.1 }
}

/// Batch norms see their batch; an activation that alone reads one becomes part of it.
fn train_batch_norms(graph: &mut Graph, momentum: f32, trained: &dyn Fn(&str) -> bool) -> Result<(), String> {
    let uses = Uses::of(graph);
    let mut removed = vec![false; graph.nodes.len()];
    for index in 0..graph.nodes.len() {
        let Op::Elementwise(spec) = graph.nodes[index].op else { continue };
        let ElementwiseOp::BatchNorm { eps } = spec.op else { continue };
        let statistic = graph.nodes[index].input(Slot::Mean).map(|value| &graph.values[value.0].source);
        let Some(Source::Weight(recipe)) = statistic else { continue };
        if !recipe.tensors.iter().any(|tensor| trained(&tensor.name)) {
            continue;
        }
        let ElementwiseSpec { rows, channels, .. } = spec;
        if rows < 2 {
            return Err(format!(
                "{} would see one value per channel; take larger images or batches",
                graph.nodes[index].name
            ));
        }
        let mut act = Act::Identity;
        let out = graph.nodes[index].outputs[0];
        let mut result = out;
        if let Some(reader) = uses.sole_reader(out)
            && let Op::Elementwise(ElementwiseSpec { op: ElementwiseOp::Act(behind), .. }) = graph.nodes[reader].op
        {
            act = behind;
            result = graph.nodes[reader].outputs[0];
            removed[reader] = true;
        }
        let name = graph.nodes[index].name.clone();
        let kept =
            ["mean", "scale"].map(|what| graph.add_intermediate(format!("{name}.{what}"), vec![channels], DType::F32));
        let node = &mut graph.nodes[index];
        node.op = Op::BatchNorm(BatchNormSpec { rows, channels, eps, momentum, act });
        node.outputs = vec![result, kept[0], kept[1]];
    }
    let mut removed = removed.into_iter();
    graph.nodes.retain(|_| !removed.next().unwrap_or(false));
    Ok(())
}

/// torchvision's rate of stochastic depth at the last block; 0: none.
pub fn stochastic_depth_rate(backbone: Backbone) -> f32 {
    match backbone {
        Backbone::SwinBase | Backbone::SwinV2Base | Backbone::ConvNextBase => 0.5,
        Backbone::SwinV2Small => 0.3,
        Backbone::SwinV2Tiny | Backbone::EfficientNet => 0.2,
        Backbone::ConvNextSmall => 0.4,
        Backbone::ConvNextTiny => 0.1,
        Backbone::ResNet | Backbone::MobileNet => 0.0,
    }
}

/// The block that a node's name belongs to, e.g. `backbone.0.5.17`.
fn block_of(backbone: Backbone, name: &str) -> Option<&str> {
    let parts = match backbone {
        Backbone::EfficientNet => 3,
        _ => 4,
    };
    let rest = name.strip_prefix("backbone.")?;
    let mut ends = rest.match_indices('.').map(|(at, _)| at + "backbone.".len());
    let end = ends.nth(parts - 2)?;
    let whole = &name[..end];
    let block = whole.rsplit('.').next()?;
    let numbered = !block.is_empty() && block.bytes().all(|b| b.is_ascii_digit());
    // Blocks have layers of their own below the number.
    let inner = name[end + 1..].starts_with(|c: char| c.is_ascii_alphabetic());
    (numbered && inner).then_some(whole)
}

/// Puts a stochastic depth between each residual branch of the backbone and its addition. The probability grows linearly with the number of the
/// block: from 0 to the rate at the last (Swin, ConvNeXt), or to just below it (EfficientNet).
fn drop_branches(graph: &mut Graph, backbone: Backbone, batch: usize) {
    let rate = stochastic_depth_rate(backbone);
    if rate == 0.0 {
        return;
    }
    let mut blocks: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.nodes {
        if let Some(block) = block_of(backbone, &node.name) {
            let next = blocks.len();
            blocks.entry(block.to_owned()).or_insert(next);
        }
    }
    let last = if backbone == Backbone::EfficientNet { blocks.len() } else { blocks.len().saturating_sub(1).max(1) };
    let mut place = 0;
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = &graph.nodes[index];
        let block = block_of(backbone, &node.name).and_then(|block| blocks.get(block));
        let adds = matches!(node.op, Op::Elementwise(ElementwiseSpec { op: ElementwiseOp::Add { .. }, .. }));
        if let (Some(&block), true, true, Some(branch)) =
            (block, adds, node.name.ends_with(".add"), node.input(Slot::X))
        {
            // As torchvision computes it, in f64.
            let probability = (f64::from(rate) * block as f64 / last as f64) as f32;
            if probability > 0.0 {
                let name = node.name.clone();
                insert_drop(graph, index, branch, &name, StochasticDepthSpec { batch, len: 0, probability, place });
                index += 1;
            }
            place += 1;
        }
        index += 1;
    }
}

fn insert_drop(graph: &mut Graph, index: usize, branch: ValueId, name: &str, spec: StochasticDepthSpec) {
    let value = &graph.values[branch.0];
    let (shape, len) = (value.shape.clone(), value.len() / spec.batch);
    let out = graph.add_intermediate(format!("{name}.stochastic_depth"), shape, DType::F32);
    for (slot, value) in &mut graph.nodes[index].inputs {
        if *slot == Slot::X {
            *value = out;
        }
    }
    let op = Op::StochasticDepth(StochasticDepthSpec { len, ..spec });
    let node =
        Node { name: format!("{name}.stochastic_depth"), op, inputs: vec![(Slot::X, branch)], outputs: vec![out] };
    graph.nodes.insert(index, node);
}
