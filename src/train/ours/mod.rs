//! Our own engine of a training step, on the CPU: a graph of forward, loss and backward (`segface_codegen::grad`), run kernel by kernel over
//! one arena, which begins with the gradients of parameters: activations may lie there until these begin.
//!
//! Parameters are run-time values. Those that kernels take as published are read where they lie in the flat array, others are made from them
//! by their recipes, once after every change. Gradients are added where the parameter's lie; those of
//! made values go through the recipe's adjoint first.

mod call;
mod complete;
mod fold;
mod store;

use super::{ALIGNMENT, Draws, Engine, Layout, Loss, Ready, Role};
use crate::Error;
use crate::data::Batch;
use crate::engine::EngineError;
use crate::engine::call::{Call, Memory};
use call::{Step, run};
use complete::complete_behind;
use segface_codegen::ModelSpec;
use segface_codegen::grad::{FlatGradients, Means, Training, TrainingOptions, training_over};
use segface_codegen::ir::{Node, Output, Source, ValueId};
use segface_codegen::plan::Precision;
use segface_kernels::context::Disjoint;
use segface_kernels::elementwise::convert;
use segface_kernels::stochastic_depth::Draw;
use segface_kernels::{Context, DType, Element, Isa, bf16};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
pub(in crate::train) use store::Store;

/// See [`OurEngine::step`].
pub(in crate::train) type Instead<'a> = dyn FnMut(usize, *mut u8, &mut Store) -> Result<bool, Error> + 'a;

/// A replica in training on this CPU.
pub struct OurEngine {
    layout: Layout,
    training: Training,
    input: ValueId,
    context: Context,
    store: Store,
    /// Of each node, the gradients that are complete behind it.
    complete: Vec<Vec<Range<usize>>>,
}

impl OurEngine {
    /// Compiles a training step for micro-batches of `options.batch` images, takes memory and starts `threads` threads. Parameters and
    /// buffers are zero.
    ///
    /// # Errors
    /// If the network cannot take that size or be trained so, or this CPU lacks `isa`.
    pub fn new(layout: Layout, options: &TrainingOptions, threads: usize, isa: Isa) -> Result<Self, Error> {
        Self::with(layout, options, threads, isa, Means::default())
    }

    /// [`OurEngine::new`] in another precision or within less memory.
    ///
    /// # Errors
    /// As there; a precision that the CPU does not compute in.
    pub fn with(
        layout: Layout,
        options: &TrainingOptions,
        threads: usize,
        isa: Isa,
        means: Means,
    ) -> Result<Self, Error> {
        if !isa.is_available() {
            return Err(EngineError::WrongCpu { wanted: isa, have: Isa::available().collect() }.into());
        }
        let trained = |name: &str| layout.find(name).is_some_and(|entry| entry.trained);
        let gradients = flat_gradients(&layout, means);
        let training =
            training_over(&layout.model(), options, &trained, means, &gradients).map_err(EngineError::from)?;
        let input = training.graph.values.iter().position(|value| matches!(value.source, Source::Input));
        let input = ValueId(input.ok_or_else(|| EngineError::Broken { reason: "it has no input".into() })?);
        let store = Store::new(&layout, &training);
        let complete = complete_behind(&layout, &training.graph);
        Ok(Self { layout, training, input, context: Context::new(threads, isa), store, complete })
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        self.training.model
    }

    /// The calls of a step.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// Bytes of everything: arena with gradients, scratch, parameters, buffers, and what is made of them.
    pub fn bytes(&mut self) -> usize {
        self.context.scratch_held() + self.store.bytes()
    }

    /// What the last step gave out as `output`, with its shape.
    ///
    /// # Errors
    /// If the engine was made without that output.
    pub fn output(&mut self, output: Output) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let found = self.training.graph.outputs.iter().find(|(o, _)| *o == output);
        let value = found.ok_or(EngineError::NoSuchOutput { output })?.1;
        let (constants, _, base) = self.store.split(None);
        let memory = Memory { graph: &self.training.graph, places: &self.training.memory, constants: &constants, base };
        let declared = &self.training.graph.values[value.0];
        // SAFETY: no kernel runs, and the result is copied before `&mut self` ends.
        let data = unsafe {
            match declared.dtype {
                DType::F32 => memory.slice::<f32>(value).to_vec(),
                _ => memory.slice::<bf16>(value).iter().map(|value| value.to_f32()).collect(),
            }
        };
        Ok((declared.shape.clone(), data))
    }

    /// [`Engine::accumulate`] that calls `observe` with each node and the time it took.
    ///
    /// # Errors
    /// As there.
    pub fn accumulate_observed(
        &mut self,
        batch: &Batch,
        draws: Draws,
        scale: f32,
        observe: &mut dyn FnMut(&Node, Duration),
    ) -> Result<Loss, Error> {
        self.step(batch, draws, scale, &mut |_, _| {}, observe, &mut |_, _, _| Ok(false))
    }

    /// The same with `ready` of [`Engine::accumulate`], and `instead`: what runs a node in another way (of its number, the arena and the flat
    /// arrays), or says that it does not.
    pub(in crate::train) fn step(
        &mut self,
        batch: &Batch,
        draws: Draws,
        scale: f32,
        ready: &mut Ready<'_>,
        observe: &mut dyn FnMut(&Node, Duration),
        instead: &mut Instead<'_>,
    ) -> Result<Loss, Error> {
        // What was added before is put aside: activations may come to lie there.
        let gradients = self.store.gradients_mut();
        let mut before = None;
        if !self.training.begin.is_empty() && !all_zero(&mut self.context, gradients) {
            before = Some(gradients.to_vec());
            gradients.fill(0.0);
        }
        let mut ready = |range: Range<usize>, gradients: &mut [f32]| {
            if let Some(before) = &mut before {
                put_back(&mut before[range.clone()], &mut gradients[range.clone()]);
            }
            ready(range.clone(), &gradients[range]);
        };
        let result = match self.training.precision {
            Precision::Bf16 => self.step_in::<bf16>(batch, draws, scale, &mut ready, observe, instead),
            _ => self.step_in::<f32>(batch, draws, scale, &mut ready, observe, instead),
        };
        if result.is_err() && !self.training.begin.is_empty() {
            self.store.gradients_mut().fill(0.0);
        }
        if let Some(before) = &mut before {
            put_back(before, self.store.gradients_mut());
        }
        result
    }

    fn step_in<T: Element>(
        &mut self,
        batch: &Batch,
        draws: Draws,
        scale: f32,
        complete: &mut dyn FnMut(Range<usize>, &mut [f32]),
        observe: &mut dyn FnMut(&Node, Duration),
        instead: &mut Instead<'_>,
    ) -> Result<Loss, Error> {
        let value = &self.training.graph.values[self.input.0];
        if batch.images.len() != value.len() {
            let (expected, found) = (value.shape.clone(), batch.images.len());
            return Err(EngineError::InputLength { expected, found }.into());
        }
        let pixels = value.len() / 3;
        if batch.labels.len() != pixels {
            let reason = format!("{} labels for {pixels} pixels", batch.labels.len());
            return Err(EngineError::Broken { reason }.into());
        }
        let warps = if self.training.model.variant.warps() { value.shape[0] } else { 0 };
        if batch.warps.len() != warps {
            let reason = format!("{} warps, expected {warps}", batch.warps.len());
            return Err(EngineError::Broken { reason }.into());
        }
        self.store.refresh(&mut self.context, &self.training.graph);
        let draw = Draw { seed: draws.seed, step: draws.step, micro_batch: draws.micro_batch };
        let size = (value.shape[2], value.shape[1]);
        let mut step = Step { draw, labels: &batch.labels, warps: &batch.warps, size, scale, loss: None };
        {
            let (constants, _, base) = self.store.split(None);
            let memory =
                Memory { graph: &self.training.graph, places: &self.training.memory, constants: &constants, base };
            // SAFETY: nothing else uses the arena.
            let input = unsafe { memory.slice_mut::<T>(self.input) };
            convert::<f32, T>(&mut self.context, &batch.images, input);
        }
        for (index, node) in self.training.graph.nodes.iter().enumerate() {
            let begin = std::time::Instant::now();
            for bytes in self.training.begin.get(&index).into_iter().flatten() {
                let range = bytes.start / size_of::<f32>()..bytes.end / size_of::<f32>();
                clear(&mut self.context, &mut self.store.gradients_mut()[range]);
            }
            let base = self.store.base();
            if !instead(index, base, &mut self.store)? {
                let packed = self.store.pack::<T>(self.context.isa(), node);
                let (constants, mut sums, base) = self.store.split(packed);
                let memory =
                    Memory { graph: &self.training.graph, places: &self.training.memory, constants: &constants, base };
                let call = Call { memory: &memory, node, index };
                run::<T>(&call, &mut self.context, &mut sums, &mut step)?;
            }
            observe(node, begin.elapsed());
            for range in &self.complete[index] {
                complete(range.clone(), self.store.gradients_mut());
            }
        }
        self.store.count_batch(&self.layout);
        let loss = step.loss.ok_or_else(|| EngineError::Broken { reason: "it has no loss".into() })?;
        Ok(Loss { cross_entropy: loss.cross_entropy, dice: loss.dice })
    }
}

/// Values of the gradients that a thread goes through at a time.
const CHUNK: usize = 1 << 16;

fn all_zero(context: &mut Context, values: &[f32]) -> bool {
    let other = AtomicBool::new(false);
    context.parallel(values.len().div_ceil(CHUNK), 0, |task, _| {
        let chunk = &values[task * CHUNK..values.len().min((task + 1) * CHUNK)];
        // Without branches, so that it is as fast as memory.
        if chunk.iter().fold(false, |other, value| other | (*value != 0.0)) {
            other.store(true, Ordering::Relaxed);
        }
    });
    !other.into_inner()
}

fn clear(context: &mut Context, values: &mut [f32]) {
    let len = values.len();
    let values = Disjoint::new(values);
    context.parallel(len.div_ceil(CHUNK), 0, |task, _| {
        // SAFETY: each task has its own chunk.
        unsafe { values.slice(task * CHUNK, CHUNK.min(len - task * CHUNK)) }.fill(0.0);
    });
}

/// Adds to gradients what was there before, and forgets it.
fn put_back(before: &mut [f32], gradients: &mut [f32]) {
    for (gradient, before) in gradients.iter_mut().zip(before) {
        *gradient += std::mem::take(before);
    }
}

/// Where the flat array's gradients lie. libtorch computes those of a block in one call, wherever their kernels would stand in the graph: with
/// blocks of its own, which is where calls are not put together, gradients share their memory with nothing.
fn flat_gradients(layout: &Layout, means: Means) -> FlatGradients {
    let bytes = |values: usize| values * size_of::<f32>();
    let trained = layout.parameters().iter().filter(|entry| entry.role == Role::Parameter && entry.trained);
    let places = trained.map(|entry| {
        let end = entry.range.end.next_multiple_of(ALIGNMENT);
        (entry.name.clone(), bytes(entry.range.start)..bytes(end))
    });
    FlatGradients {
        bytes: bytes(layout.parameters_len()),
        places: places.collect(),
        shared: means.frugal && means.fused,
    }
}

impl Engine for OurEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[f32] {
        self.store.parameters()
    }

    fn parameters_mut(&mut self) -> &mut [f32] {
        self.store.parameters_mut()
    }

    fn buffers(&self) -> &[f32] {
        self.store.buffers()
    }

    fn buffers_mut(&mut self) -> &mut [f32] {
        self.store.buffers_mut()
    }

    fn gradients(&self) -> &[f32] {
        self.store.gradients()
    }

    fn gradients_mut(&mut self) -> &mut [f32] {
        self.store.gradients_mut()
    }

    fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]) {
        self.store.parameters_and_gradients()
    }

    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, ready: &mut Ready<'_>) -> Result<Loss, Error> {
        self.step(batch, draws, scale, ready, &mut |_, _| {}, &mut |_, _, _| Ok(false))
    }
}
