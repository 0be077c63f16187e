//! Our engine with blocks of the network by libtorch.
//!
//! Blocks meet in our arena: libtorch reads maps and their gradients there, where they lie, and writes its results there. A copy is made only
//! of a map that our plan gives to others before the block's backward pass. What our kernels would have kept of the block for theirs stays
//! planned, though nobody writes it: memory is that of our engine and, for these blocks, libtorch's besides.

use super::super::ours::{OurEngine, Store};
use super::blocks::{Block, Part, blocks};
use super::tensors::{channels_first, channels_last, tensors, view};
use super::{Draws, Engine, Layout, Loss, Ready, check, factor, frozen, refused, set_threads};
use crate::Error;
use crate::data::Batch;
use crate::engine::EngineError;
use crate::train::{Entry, TrainError};
use segface_codegen::grad::{Means, Training as Step, TrainingOptions, batch_norm_momentum};
use segface_codegen::ir::{Node, ValueId};
use segface_kernels::Isa;
use segface_reference::{Model, Training};
use std::ops::Range;
use std::time::Duration;
use tch::{Kind, Tensor};

/// A replica in training on this CPU, in f32.
pub struct MixedEngine {
    ours: OurEngine,
    options: TrainingOptions,
    blocks: Vec<Placed>,
    /// Of each node, its block.
    owners: Vec<Option<usize>>,
    /// Of each block, whether it is libtorch's.
    by_torch: Vec<bool>,
}

/// A block with what it needs of the layout and the arena.
struct Placed {
    block: Block,
    /// Tensors that it reads.
    entries: Vec<Entry>,
    inputs: Vec<PlacedInput>,
    output: Site,
    gradients: Vec<Site>,
}

struct PlacedInput {
    map: Site,
    given: Vec<Site>,
    wanted: Option<Site>,
    kept: bool,
}

/// A map [N, h, w, C] in the arena.
struct Site {
    offset: usize,
    shape: Vec<usize>,
}

impl Site {
    fn of(step: &Step, value: ValueId) -> Result<Site, EngineError> {
        let shape = step.graph.values[value.0].shape.clone();
        match step.memory.offsets[value.0] {
            Some(offset) if shape.len() == 4 => Ok(Site { offset, shape }),
            _ => {
                let name = &step.graph.values[value.0].name;
                Err(EngineError::Broken { reason: format!("`{name}` is no map in the arena") })
            }
        }
    }

    /// # Safety
    /// As [`view`] of this part of the arena at `base`.
    unsafe fn tensor(&self, base: *mut u8) -> Tensor {
        // SAFETY: the caller's promise; the plan aligns all values.
        unsafe { view(base.add(self.offset).cast(), &self.shape) }
    }
}

impl Placed {
    fn new(block: Block, step: &Step, layout: &Layout) -> Result<Placed, EngineError> {
        let sites = |values: &[ValueId]| values.iter().map(|value| Site::of(step, *value)).collect::<Result<_, _>>();
        let inputs = block.inputs.iter().map(|input| {
            let (map, given) = (Site::of(step, input.value)?, sites(&input.given)?);
            let wanted = input.wanted.map(|value| Site::of(step, value)).transpose()?;
            Ok(PlacedInput { map, given, wanted, kept: input.kept })
        });
        let inputs = inputs.collect::<Result<_, EngineError>>()?;
        let (output, gradients) = (Site::of(step, block.output)?, sites(&block.gradients)?);
        let entries = layout.parameters().iter().chain(layout.buffers());
        let entries = entries.filter(|entry| block.tensors.contains(&entry.name)).cloned().collect();
        Ok(Placed { block, entries, inputs, output, gradients })
    }

    /// Computes the output, and returns what its gradients are found by.
    fn forward(
        &self,
        layout: &Layout,
        training: Training<'_>,
        base: *mut u8,
        store: &mut Store,
    ) -> Result<Pending, Error> {
        let [parameters, buffers, _] = store.arrays();
        // SAFETY: the tensors die within the step, in which parameters do not move and statistics are written by their block alone.
        let tensors = unsafe { tensors(self.entries.iter(), parameters.as_mut_ptr(), buffers.as_mut_ptr()) };
        let parameters = self.entries.iter().filter(|entry| tensors[&entry.name].requires_grad());
        let parameters: Vec<(Range<usize>, Tensor)> =
            parameters.map(|entry| (entry.range.clone(), tensors[&entry.name].shallow_clone())).collect();
        let inputs: Vec<Tensor> = self
            .inputs
            .iter()
            .map(|input| {
                // SAFETY: the map was made by nodes before this one, and lies there as long as the tensor is used, or is copied.
                let map = unsafe { input.map.tensor(base) };
                let map = if input.kept { map } else { map.copy() };
                map.set_requires_grad(input.wanted.is_some())
            })
            .collect();
        let model = Model::over(layout.model(), tensors, Kind::Float, training);
        let compute = || match self.block.part {
            Part::Stage(stage) => model.stage(stage, &channels_first(&inputs[0]), self.block.place),
            Part::Decoder => {
                let taps: Vec<Tensor> = inputs.iter().map(channels_first).collect();
                model.decode(&taps.try_into().expect("the decoder has four inputs"))
            }
        };
        let output = if self.block.backward.is_empty() { tch::no_grad(compute) } else { compute() };
        let output = channels_last(&output.map_err(refused)?);
        let _guard = tch::no_grad_guard();
        // SAFETY: it is the place of what these nodes make, which no value overlaps that is read from there hereafter.
        unsafe { self.output.tensor(base) }.f_copy_(&output).map_err(refused)?;
        Ok(Pending { parameters, inputs, output })
    }

    /// Adds to gradients of parameters, and writes those of inputs.
    fn backward(&self, pending: Pending, base: *mut u8, store: &mut Store) -> Result<(), Error> {
        let Pending { parameters, inputs, output } = pending;
        // SAFETY: nodes before this one have made them, and nobody writes there while they are used.
        let at = |site: &Site| unsafe { site.tensor(base) };
        let mut shares = self.gradients.iter().map(at);
        let Some(first) = shares.next() else { return Ok(()) };
        let d_output = shares.fold(first, |sum, share| sum + share);
        let total = (&output * &d_output).sum(Kind::Float);
        let wanted: Vec<(&PlacedInput, &Site, &Tensor)> = self
            .inputs
            .iter()
            .zip(&inputs)
            .filter_map(|(input, map)| Some((input, input.wanted.as_ref()?, map)))
            .collect();
        let leaves: Vec<&Tensor> =
            wanted.iter().map(|(_, _, map)| *map).chain(parameters.iter().map(|(_, tensor)| tensor)).collect();
        let mut found = Tensor::f_run_backward(&[total], &leaves, false, false).map_err(refused)?.into_iter();
        let _guard = tch::no_grad_guard();
        // All sums before the first is written: it may take the place of what another is made from.
        let mut sums = Vec::new();
        for (input, site, map) in &wanted {
            let gradient = found.next().filter(Tensor::defined).unwrap_or_else(|| map.zeros_like());
            sums.push((*site, input.given.iter().map(at).fold(gradient, |sum, share| sum + share)));
        }
        for (site, sum) in sums {
            at(site).f_copy_(&sum).map_err(refused)?;
        }
        let [_, _, gradients] = store.arrays();
        for ((range, parameter), gradient) in parameters.into_iter().zip(found) {
            if gradient.defined() {
                let shape: Vec<usize> = parameter.size().into_iter().map(|n| n as usize).collect();
                // SAFETY: the view dies here.
                let mut sum = unsafe { view(gradients[range].as_mut_ptr(), &shape) };
                let _ = sum.f_add_(&gradient).map_err(refused)?;
            }
        }
        Ok(())
    }
}

/// A block between its passes.
struct Pending {
    /// Where in the flat arrays they lie.
    parameters: Vec<(Range<usize>, Tensor)>,
    inputs: Vec<Tensor>,
    output: Tensor,
}

impl MixedEngine {
    /// As [`OurEngine::new`], with all blocks ours and no calls put together.
    ///
    /// # Errors
    /// As there.
    pub fn new(layout: Layout, options: &TrainingOptions, threads: usize, isa: Isa) -> Result<Self, Error> {
        // Blocks are found in the graph as it is before calls of two of them are put together.
        let means = Means { fused: false, ..Means::default() };
        let ours = OurEngine::with(layout, options, threads, isa, means)?;
        set_threads(threads);
        let mut owners = vec![None; ours.training().graph.nodes.len()];
        let blocks = blocks(ours.training())?;
        for (number, block) in blocks.iter().enumerate() {
            let nodes = block.forward.clone().chain(block.backward.clone()).chain(block.behind.iter().copied());
            nodes.for_each(|node| owners[node] = Some(number));
        }
        let blocks = blocks.into_iter().map(|block| Placed::new(block, ours.training(), ours.layout()));
        let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
        let by_torch = vec![false; blocks.len()];
        Ok(Self { ours, options: options.clone(), blocks, owners, by_torch })
    }

    /// Names of the blocks: `stage1` to `stage4` of the backbone, `decoder`.
    pub fn blocks(&self) -> Vec<String> {
        self.blocks.iter().map(|placed| placed.block.part.name()).collect()
    }

    /// Gives these blocks to libtorch, the others to our kernels.
    ///
    /// # Errors
    /// If there is no such block.
    pub fn choose(&mut self, blocks: &[String]) -> Result<(), TrainError> {
        let names = self.blocks();
        if let Some(unknown) = blocks.iter().find(|block| !names.contains(block)) {
            let reason = format!("there is no block `{unknown}`; there are {}", names.join(", "));
            return Err(TrainError::Options(reason));
        }
        self.by_torch = names.iter().map(|name| blocks.contains(name)).collect();
        Ok(())
    }

    /// Which blocks are libtorch's.
    pub fn chosen(&self) -> Vec<String> {
        let names = self.blocks().into_iter().zip(&self.by_torch);
        names.filter(|(_, by_torch)| **by_torch).map(|(name, _)| name).collect()
    }

    /// What a step is made for.
    pub(super) fn options(&self) -> &TrainingOptions {
        &self.options
    }

    /// A step that tells of each node its block and the time that it took; libtorch's time is that of the first of a block's nodes either way.
    pub(super) fn step(
        &mut self,
        batch: &Batch,
        draws: Draws,
        scale: f32,
        ready: &mut Ready<'_>,
        spent: &mut dyn FnMut(Option<usize>, Duration),
    ) -> Result<Loss, Error> {
        let Self { ours, options, blocks, owners, by_torch } = self;
        let layout = ours.layout().clone();
        check(batch, &layout, options)?;
        let (factor, frozen) = (factor(options, draws), frozen(&layout));
        let momentum = f64::from(batch_norm_momentum(layout.model().backbone));
        let training = Training { momentum, factor: &factor, frozen: &frozen };
        let mut pending: Vec<Option<Pending>> = blocks.iter().map(|_| None).collect();
        let mut instead = |index: usize, base: *mut u8, store: &mut Store| {
            let Some(number) = owners[index].filter(|number| by_torch[*number]) else { return Ok(false) };
            let placed = &blocks[number];
            if index == placed.block.forward.start {
                pending[number] = Some(placed.forward(&layout, training, base, store)?);
            } else if index == placed.block.backward.start
                && let Some(pending) = pending[number].take()
            {
                placed.backward(pending, base, store)?;
            }
            Ok(true)
        };
        let mut index = 0;
        let mut observe = |_: &Node, time: Duration| {
            spent(owners[index], time);
            index += 1;
        };
        ours.step(batch, draws, scale, ready, &mut observe, &mut instead)
    }
}

impl Engine for MixedEngine {
    fn layout(&self) -> &Layout {
        self.ours.layout()
    }

    fn parameters(&self) -> &[f32] {
        self.ours.parameters()
    }

    fn parameters_mut(&mut self) -> &mut [f32] {
        self.ours.parameters_mut()
    }

    fn buffers(&self) -> &[f32] {
        self.ours.buffers()
    }

    fn buffers_mut(&mut self) -> &mut [f32] {
        self.ours.buffers_mut()
    }

    fn gradients(&self) -> &[f32] {
        self.ours.gradients()
    }

    fn gradients_mut(&mut self) -> &mut [f32] {
        self.ours.gradients_mut()
    }

    fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]) {
        self.ours.parameters_and_gradients()
    }

    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, ready: &mut Ready<'_>) -> Result<Loss, Error> {
        self.step(batch, draws, scale, ready, &mut |_, _| {})
    }
}
