//! One problem for our engine and for libtorch.

use segface::data::Batch;
use segface::train::ours::OurEngine;
use segface::train::{Draws, Engine, Layout, Loss, Role};
use segface::weights::{Weights, seeded_values};
use segface_codegen::grad::{Means, TrainingOptions, batch_norm_momentum};
use segface_codegen::{ModelSpec, Variant};
use segface_kernels::image::FaceWarp;
use segface_kernels::stochastic_depth::{Draw, StochasticDepthSpec};
use segface_kernels::{Context, Isa};
use segface_reference::Model;
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// Images and labels of one micro-batch.
pub(crate) struct Problem {
    pub(crate) spec: ModelSpec,
    pub(crate) batch: usize,
    pub(crate) side: usize,
    pub(crate) stochastic_depth: bool,
    /// Tells apart batches of one run.
    pub(crate) number: usize,
}

pub(crate) const DRAWS: Draws = Draws { seed: 7, step: 3, micro_batch: 1 };

impl Problem {
    pub(crate) fn images(&self) -> Vec<f32> {
        seeded_values(&format!("images {}", self.number), self.batch * self.side * self.side * 3)
    }

    /// Regions a few pixels wide, every class.
    pub(crate) fn labels(&self) -> Vec<u8> {
        let classes = self.spec.variant.classes().len();
        let cells = self.side / 4;
        let noise = seeded_values(&format!("labels {}", self.number), self.batch * cells * cells);
        let class = |cell: usize| (((noise[cell] + 1.0) / 2.0 * classes as f32) as usize).min(classes - 1) as u8;
        let (batch, side) = (self.batch, self.side);
        (0..batch * side * side)
            .map(|pixel| {
                let (image, y, x) = (pixel / side / side, pixel / side % side, pixel % side);
                class((image * cells + y / 4) * cells + x / 4)
            })
            .collect()
    }

    /// Eyes, nose and corners of the mouth, somewhat off their standard places.
    fn points(&self) -> Vec<[[f32; 2]; 5]> {
        let standard = [[0.35f32, 0.4], [0.65, 0.42], [0.5, 0.55], [0.4, 0.7], [0.62, 0.72]];
        let noise = seeded_values("points", self.batch * 10);
        let side = self.side as f32;
        let point = |image: usize, i: usize| {
            [0, 1].map(|axis| side * (standard[i][axis] + 0.03 * noise[(image * 5 + i) * 2 + axis]))
        };
        (0..self.batch).map(|image| [0, 1, 2, 3, 4].map(|i| point(image, i))).collect()
    }

    pub(crate) fn batch(&self) -> Batch {
        let (mut images, points, mut warps) = (self.images(), self.points(), Vec::new());
        if self.spec.variant.warps() {
            let mut context = Context::new(1, Isa::best());
            let size = (self.side, self.side);
            for (image, points) in images.chunks_exact_mut(self.side * self.side * 3).zip(&points) {
                let warp = FaceWarp::fit(points, size, size).expect("points that define a similarity");
                let before = image.to_vec();
                warp.warp(&mut context, &before, 3, image);
                warps.push(warp);
            }
        }
        Batch { images, labels: self.labels(), indices: (0..self.batch).collect(), points, warps }
    }

    pub(crate) fn options(&self) -> TrainingOptions {
        TrainingOptions {
            batch: self.batch,
            height: self.side,
            width: self.side,
            stochastic_depth: self.stochastic_depth,
            outputs: Vec::new(),
        }
    }

    pub(crate) fn engine(&self, weights: &Weights, threads: usize) -> OurEngine {
        self.engine_by(weights, threads, Isa::best(), Means::default())
    }

    pub(crate) fn engine_by(&self, weights: &Weights, threads: usize, isa: Isa, means: Means) -> OurEngine {
        let layout = Layout::new(self.spec);
        let mut engine = OurEngine::with(layout, &self.options(), threads, isa, means).expect("an engine");
        load(&mut engine, weights);
        engine
    }

    /// What stochastic depth multiplies by.
    pub(crate) fn factor(&self, draws: Draws) -> impl Fn(u32, f32, usize) -> f32 + use<> {
        let (batch, on) = (self.batch, self.stochastic_depth);
        move |place, probability, image| {
            let draw = Draw { seed: draws.seed, step: draws.step, micro_batch: draws.micro_batch };
            let spec = StochasticDepthSpec { batch, len: 1, probability, place };
            if on { draw.factor(&spec, image) } else { 1.0 }
        }
    }

    /// What libtorch's model is: LaPa's without its warp is Helen's.
    fn unwarped(&self) -> ModelSpec {
        let variant = if self.spec.variant.warps() { Variant::Helen } else { self.spec.variant };
        ModelSpec { variant, ..self.spec }
    }

    /// libtorch's model in training mode.
    pub(crate) fn model<'a>(
        &self,
        weights: &'a Weights,
        kind: Kind,
        factor: &'a dyn Fn(u32, f32, usize) -> f32,
    ) -> Model<'a> {
        // Libtorch's threads wait for one another by spinning, which on a busy machine takes ages.
        tch::set_num_threads(1);
        let momentum = f64::from(batch_norm_momentum(self.spec.backbone));
        Model::training(self.unwarped(), weights, kind, momentum, factor)
    }

    /// libtorch's loss of a model in training mode, and its parts. Both engines see the same warped images: on noise, what rounding the warp's
    /// ill-conditioned grid costs would hide everything else. Logits go back through libtorch's own un-warp.
    pub(crate) fn reference_loss(&self, model: &Model, kind: Kind) -> (Tensor, [f64; 2]) {
        let side = self.side as i64;
        let images = self.batch().images;
        let images = Tensor::from_slice(&images).view([-1, side, side, 3]).permute([0, 3, 1, 2]).contiguous();
        let labels = Tensor::from_slice(&self.labels()).view([-1, side, side]);
        let points: Vec<f32> = self.points().into_iter().flatten().flatten().collect();
        let points = Tensor::from_slice(&points).view([-1, 5, 2]);
        let mut logits = model.forward(&images.to_kind(kind), None).expect("the reference runs").logits;
        if self.spec.variant.warps() {
            logits = segface_reference::image::unwarp(&logits, &points, side, side);
        }
        let (cross_entropy, dice) = segface_reference::loss::loss(&logits, &labels);
        let parts = [cross_entropy.double_value(&[]), dice.double_value(&[])];
        ((cross_entropy + dice) * 0.5, parts)
    }
}

/// Copies weights into an engine's flat arrays.
pub(crate) fn load(engine: &mut dyn Engine, weights: &Weights) {
    let layout = engine.layout().clone();
    for entry in layout.parameters().iter().chain(layout.buffers()) {
        let values = weights.tensors()[&entry.name].values();
        let to = if entry.role == Role::Parameter { engine.parameters_mut() } else { engine.buffers_mut() };
        to[entry.range.clone()].copy_from_slice(&values);
    }
}

/// Gradients by published name, and the loss.
pub(crate) fn ours(engine: &mut dyn Engine, problem: &Problem) -> (Loss, BTreeMap<String, Vec<f32>>) {
    engine.gradients_mut().fill(0.0);
    let loss = engine.accumulate(&problem.batch(), DRAWS, 1.0, &mut |_, _| {}).expect("a step");
    let layout = engine.layout().clone();
    let of = |entry: &segface::train::Entry| engine.gradients()[entry.range.clone()].to_vec();
    (loss, layout.parameters().iter().map(|entry| (entry.name.clone(), of(entry))).collect())
}

/// The same by libtorch in `kind`, with running statistics as they are afterwards.
pub(crate) fn reference(weights: &Weights, problem: &Problem, kind: Kind) -> ([f64; 2], BTreeMap<String, Tensor>) {
    let factor = problem.factor(DRAWS);
    let model = problem.model(weights, kind, &factor);
    let (loss, parts) = problem.reference_loss(&model, kind);
    loss.backward();
    let tensors = model.tensors().into_iter().map(|(name, tensor)| {
        let value = if tensor.requires_grad() { tensor.grad() } else { tensor };
        (name, value)
    });
    (parts, tensors.collect())
}
