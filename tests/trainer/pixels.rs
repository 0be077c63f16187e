//! Softmax regression: logits of a pixel are a linear function of its three channels and its place.

use segface::data::Batch;
use segface::train::{Draws, Engine, Layout, Loss, Ready};
use segface::{Backbone, Error, ModelSpec, Variant};
use segface_codegen::TensorDecl;
use std::ops::Range;

/// Red, green, blue, column, row.
const FEATURES: usize = 5;

/// What such a network stands for in states: there is no name for it.
pub(crate) const MODEL: ModelSpec = ModelSpec { backbone: Backbone::MobileNet, variant: Variant::Celeb };

/// A hook at the start of every micro-batch; what it returns is added to the first gradient.
pub(crate) type Hook = Box<dyn FnMut(Draws) -> f32>;

pub(crate) struct Pixels {
    layout: Layout,
    side: usize,
    parameters: Vec<f32>,
    buffers: Vec<f32>,
    gradients: Vec<f32>,
    pub(crate) hook: Hook,
}

fn decl(name: &str, shape: &[usize], required: bool) -> TensorDecl {
    TensorDecl { name: name.into(), shape: shape.to_vec(), required }
}

impl Pixels {
    /// For images of `side` × `side`. A tensor that feeds nothing makes states large enough that writing them takes a while.
    pub(crate) fn new(model: ModelSpec, side: usize) -> Pixels {
        let classes = model.variant.classes().len();
        let tensors = vec![
            decl("head.weight", &[classes, FEATURES], true),
            decl("head.bias", &[classes], true),
            decl("norm.running_mean", &[3], true),
            decl("norm.num_batches_tracked", &[], true),
            decl("ballast", &[500, 1000], false),
        ];
        let layout = Layout::of(model, tensors);
        Pixels {
            side,
            parameters: vec![0.0; layout.parameters_len()],
            buffers: vec![0.0; layout.buffers_len()],
            gradients: vec![0.0; layout.parameters_len()],
            layout,
            hook: Box::new(|_| 0.0),
        }
    }

    fn range(&self, name: &str) -> Range<usize> {
        self.layout.find(name).unwrap().range.clone()
    }

    /// Pixels' classes' probabilities, the losses, and how the loss falls with each logit.
    fn forward(&self, features: &[[f32; FEATURES]], labels: &[u8]) -> (Loss, Vec<f64>) {
        let (weight, bias) = (&self.parameters[self.range("head.weight")], &self.parameters[self.range("head.bias")]);
        let classes = bias.len();
        let pixels = features.len();
        let mut p = vec![0f64; pixels * classes];
        for (feature, p) in features.iter().zip(p.chunks_exact_mut(classes)) {
            for (class, p) in p.iter_mut().enumerate() {
                let row = &weight[class * FEATURES..][..FEATURES];
                let products = row.iter().zip(feature).map(|(w, x)| f64::from(*w) * f64::from(*x));
                *p = f64::from(bias[class]) + products.sum::<f64>();
            }
            let most = p.iter().copied().fold(f64::MIN, f64::max);
            p.iter_mut().for_each(|p| *p = (*p - most).exp());
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= sum);
        }
        let truth = |pixel: usize, class: usize| f64::from(u8::from(usize::from(labels[pixel]) == class));
        let mut loss = Loss::default();
        for (pixel, p) in p.chunks_exact(classes).enumerate() {
            loss.cross_entropy -= p[usize::from(labels[pixel])].ln() / pixels as f64;
        }
        let mut dice_by_p = vec![0f64; p.len()];
        for class in 0..classes {
            let (mut both, mut squares) = (0.0, 0.0);
            for pixel in 0..pixels {
                let (p, t) = (p[pixel * classes + class], truth(pixel, class));
                (both, squares) = (both + p * t, squares + p * p + t);
            }
            let (above, below) = (2.0 * both + 1e-5, squares + 1e-5);
            loss.dice += (1.0 - above / below) / classes as f64;
            for pixel in 0..pixels {
                let (p, t) = (p[pixel * classes + class], truth(pixel, class));
                dice_by_p[pixel * classes + class] =
                    (-2.0 * t / below + above * 2.0 * p / (below * below)) / classes as f64;
            }
        }
        let mut by_logit = vec![0f64; p.len()];
        for pixel in 0..pixels {
            let at = pixel * classes;
            let mean: f64 = (0..classes).map(|class| p[at + class] * dice_by_p[at + class]).sum();
            for class in 0..classes {
                let p = p[at + class];
                let cross_entropy = (p - truth(pixel, class)) / pixels as f64;
                by_logit[at + class] = 0.5 * cross_entropy + 0.5 * p * (dice_by_p[at + class] - mean);
            }
        }
        (loss, by_logit)
    }

    /// Colour and place of every pixel. The colour is scaled by a number that the draws choose, as dropout would.
    fn features(&self, batch: &Batch, draws: Draws) -> Vec<[f32; FEATURES]> {
        let mixed =
            draws.seed ^ draws.step.wrapping_mul(0x9E37_79B9) ^ u64::from(draws.micro_batch).wrapping_mul(0x85EB);
        let scale = 1.0 + (mixed % 97) as f32 / 970.0;
        let place = |at: usize| at as f32 / self.side as f32 - 0.5;
        let pixels = batch.images.chunks_exact(3).enumerate();
        pixels
            .map(|(at, color)| {
                let (x, y) = (at % self.side, at / self.side % self.side);
                [color[0] * scale, color[1] * scale, color[2] * scale, place(x), place(y)]
            })
            .collect()
    }
}

impl Engine for Pixels {
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

    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, ready: &mut Ready<'_>) -> Result<Loss, Error> {
        let poison = (self.hook)(draws);
        let features = self.features(batch, draws);
        let (loss, by_logit) = self.forward(&features, &batch.labels);
        let (weight, bias) = (self.range("head.weight"), self.range("head.bias"));
        let classes = bias.len();
        for class in 0..classes {
            let falls = || by_logit.iter().skip(class).step_by(classes);
            self.gradients[bias.start + class] += scale * falls().sum::<f64>() as f32;
            for index in 0..FEATURES {
                let sum: f64 = falls().zip(&features).map(|(d, x)| d * f64::from(x[index])).sum();
                self.gradients[weight.start + class * FEATURES + index] += scale * sum as f32;
            }
        }
        self.gradients[weight.start] += poison;
        // The weight is left to be collected at the end.
        ready(bias.clone(), &self.gradients[bias]);
        let (mean, count) = (self.range("norm.running_mean"), self.range("norm.num_batches_tracked"));
        for channel in 0..3 {
            let values = batch.images.iter().skip(channel).step_by(3);
            let average = values.sum::<f32>() / features.len() as f32;
            let moved = &mut self.buffers[mean.start + channel];
            *moved = 0.9 * *moved + 0.1 * average;
        }
        self.buffers[count.start] += 1.0;
        Ok(loss)
    }
}

#[test]
fn its_gradients_are_those_of_finite_differences() {
    let side = 6;
    let mut engine = Pixels::new(MODEL, side);
    let wave = |i: usize| ((i * 37 % 101) as f32 / 50.0) - 1.0;
    let batch = Batch {
        images: (0..2 * side * side * 3).map(wave).collect(),
        labels: (0..2 * side * side).map(|i| (i * 7 % 19) as u8).collect(),
        indices: vec![0, 1],
        points: vec![[[0.0; 2]; 5]; 2],
        warps: vec![],
    };
    let draws = Draws { seed: 1, step: 2, micro_batch: 0 };
    let trained = engine.layout().trained_ranges();
    for range in &trained {
        for at in range.clone() {
            engine.parameters[at] = 0.3 * wave(at);
        }
    }
    engine.accumulate(&batch, draws, 1.0, &mut |_, _| {}).unwrap();
    let features = engine.features(&batch, draws);
    let mut at_parameter = |at: usize, value: f32| {
        let old = std::mem::replace(&mut engine.parameters[at], value);
        let loss = engine.forward(&features, &batch.labels).0.total();
        engine.parameters[at] = old;
        (old, loss, engine.gradients[at])
    };
    for name in ["head.weight", "head.bias"] {
        for at in Layout::of(MODEL, vec![decl("head.weight", &[19, 5], true), decl("head.bias", &[19], true)])
            .find(name)
            .unwrap()
            .range
            .clone()
        {
            let old = at_parameter(at, 0.0).0;
            let h = 1.0 / 1024.0;
            let (_, above, gradient) = at_parameter(at, old + h);
            let (_, below, _) = at_parameter(at, old - h);
            let (high, low) = (f64::from(old + h), f64::from(old - h));
            let slope = (above - below) / (high - low);
            assert!((slope - f64::from(gradient)).abs() < 1e-6, "{name} {at}: {gradient}, by differences {slope}");
        }
    }
}

/// The layout of [`MODEL`]'s regression.
pub(crate) fn layout() -> Layout {
    Pixels::new(MODEL, 1).layout
}
