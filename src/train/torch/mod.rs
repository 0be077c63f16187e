//! libtorch as an engine, behind the feature `libtorch`: the judge's definition of the network (`segface_reference`), differentiated by
//! autograd.
//!
//! Its tensors are views of the flat arrays that every engine holds, so that layout, optimizer, states and logs are the same. Random numbers
//! are those of our engine. [`MixedEngine`] runs our engine's graph, with blocks of it by libtorch.
//!
//! libtorch's threads are the process's: two engines with different numbers of them disturb each other.

mod blocks;
mod measure;
mod mixed;
mod tensors;

pub use measure::{Measured, MeasuredBlock};
pub use mixed::MixedEngine;

use super::{Draws, Engine, Layout, Loss, Ready, Role};
use crate::Error;
use crate::data::Batch;
use crate::engine::EngineError;
use segface_codegen::grad::{TrainingOptions, batch_norm_momentum, training};
use segface_kernels::stochastic_depth::{Draw, StochasticDepthSpec};
use segface_reference::{Model, Training, image::unwarp, loss::loss};
use tch::{Kind, Tensor};
use tensors::{channels_first, tensors, view};

/// A replica in training by libtorch on this CPU, in f32.
pub struct TorchEngine {
    layout: Layout,
    options: TrainingOptions,
    parameters: Vec<f32>,
    buffers: Vec<f32>,
    gradients: Vec<f32>,
}

impl TorchEngine {
    /// For micro-batches of `options.batch` images, on `threads` threads. Parameters and buffers are zero.
    ///
    /// # Errors
    /// As our engine's, of which it is to do the same.
    pub fn new(layout: Layout, options: &TrainingOptions, threads: usize) -> Result<Self, Error> {
        let trained = |name: &str| layout.find(name).is_some_and(|entry| entry.trained);
        training(&layout.model(), options, &trained).map_err(EngineError::from)?;
        set_threads(threads);
        let parameters = vec![0.0; layout.parameters_len()];
        let buffers = vec![0.0; layout.buffers_len()];
        let gradients = vec![0.0; layout.parameters_len()];
        Ok(Self { layout, options: options.clone(), parameters, buffers, gradients })
    }
}

/// How many threads libtorch computes with.
fn set_threads(threads: usize) {
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
}

/// What libtorch says when it refuses.
fn refused(error: impl std::fmt::Display) -> Error {
    EngineError::Torch { reason: error.to_string() }.into()
}

/// Whether a batch is of the size that an engine was made for, and its labels are classes.
fn check(batch: &Batch, layout: &Layout, options: &TrainingOptions) -> Result<(), Error> {
    let &TrainingOptions { batch: count, height, width, .. } = options;
    let pixels = count * height * width;
    if batch.images.len() != 3 * pixels {
        let (expected, found) = (vec![count, height, width, 3], batch.images.len());
        return Err(EngineError::InputLength { expected, found }.into());
    }
    let variant = layout.model().variant;
    let warps = if variant.warps() { count } else { 0 };
    if batch.labels.len() != pixels || batch.warps.len() != warps || batch.points.len() != count {
        let (labels, found, points) = (batch.labels.len(), batch.warps.len(), batch.points.len());
        let reason = format!(
            "{labels} labels, {found} warps and {points} sets of points; expected {pixels}, {warps} and {count}"
        );
        return Err(EngineError::Broken { reason }.into());
    }
    let classes = variant.classes().len();
    match batch.labels.iter().find(|&&label| usize::from(label) >= classes) {
        Some(label) => {
            Err(EngineError::Labels { reason: format!("label {label} is none of {classes} classes") }.into())
        }
        None => Ok(()),
    }
}

/// What stochastic depth multiplies the branch at a place by, as our kernel draws it.
fn factor(options: &TrainingOptions, draws: Draws) -> impl Fn(u32, f32, usize) -> f32 + use<> {
    let (batch, on) = (options.batch, options.stochastic_depth);
    move |place, probability, image| {
        let draw = Draw { seed: draws.seed, step: draws.step, micro_batch: draws.micro_batch };
        let spec = StochasticDepthSpec { batch, len: 1, probability, place };
        if on { draw.factor(&spec, image) } else { 1.0 }
    }
}

/// Whether batch norms whose names begin so keep their statistics.
fn frozen(layout: &Layout) -> impl Fn(&str) -> bool + '_ {
    move |path| !layout.find(&format!("{path}running_mean")).is_some_and(|entry| entry.trained)
}

/// One more batch for the batch norms that are trained.
fn count_batch(layout: &Layout, buffers: &mut [f32]) {
    for entry in layout.buffers().iter().filter(|entry| entry.role == Role::Count && entry.trained) {
        buffers[entry.range.clone()].iter_mut().for_each(|count| *count += 1.0);
    }
}

impl Engine for TorchEngine {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[f32] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [f32] {
        &mut self.parameters
    }

    fn buffers(&self) -> &[f32] {
        &self.buffers
    }

    fn buffers_mut(&mut self) -> &mut [f32] {
        &mut self.buffers
    }

    fn gradients(&self) -> &[f32] {
        &self.gradients
    }

    fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.gradients
    }

    fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]) {
        (&mut self.parameters, &self.gradients)
    }

    /// Announces nothing: autograd gives all gradients at its end.
    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, _: &mut Ready<'_>) -> Result<Loss, Error> {
        check(batch, &self.layout, &self.options)?;
        let Self { layout, options, parameters, buffers, gradients } = self;
        let model = layout.model();
        let entries = layout.parameters().iter().chain(layout.buffers());
        // SAFETY: the tensors die in this call, in which nothing else touches the arrays.
        let tensors = unsafe { tensors(entries, parameters.as_mut_ptr(), buffers.as_mut_ptr()) };
        let trained: Vec<_> = layout.parameters().iter().filter(|entry| entry.trained).collect();
        let leaves: Vec<Tensor> = trained.iter().map(|entry| tensors[&entry.name].shallow_clone()).collect();
        let (factor, frozen) = (factor(options, draws), frozen(layout));
        let momentum = f64::from(batch_norm_momentum(model.backbone));
        let training = Training { momentum, factor: &factor, frozen: &frozen };
        // Images are warped already, and but for the warp LaPa's network is Helen's.
        let unwarped = if model.variant.warps() { segface_codegen::Variant::Helen } else { model.variant };
        let network =
            Model::over(segface_codegen::ModelSpec { variant: unwarped, ..model }, tensors, Kind::Float, training);
        let (height, width) = (options.height as i64, options.width as i64);
        let images = Tensor::from_slice(&batch.images).view([-1, height, width, 3]);
        let labels = Tensor::from_slice(&batch.labels).view([-1, height, width]);
        let mut logits = network.forward(&channels_first(&images).contiguous(), None).map_err(refused)?.logits;
        if model.variant.warps() {
            let points = Tensor::from_slice(batch.points.as_flattened().as_flattened()).view([-1, 5, 2]);
            logits = unwarp(&logits, &points, height, width);
        }
        let (cross_entropy, dice) = loss(&logits, &labels);
        let total = (&cross_entropy + &dice) * (0.5 * f64::from(scale));
        let found = Tensor::f_run_backward(&[total], &leaves, false, false).map_err(refused)?;
        let _guard = tch::no_grad_guard();
        for (entry, gradient) in trained.into_iter().zip(found) {
            if gradient.defined() {
                // SAFETY: as above.
                let mut sum = unsafe { view(gradients[entry.range.clone()].as_mut_ptr(), &entry.shape) };
                let _ = sum.g_add_(&gradient);
            }
        }
        count_batch(layout, buffers);
        Ok(Loss { cross_entropy: cross_entropy.double_value(&[]), dice: dice.double_value(&[]) })
    }
}
