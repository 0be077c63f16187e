//! The judge: every operator and every model of SegFace written in tch (libtorch), as plainly as possible.
//!
//! One file per kernel folder, of the same name, and one per backbone under `models`. Nothing here is folded or fused:
//! taps are projected, upsampled, concatenated and mixed as published, batch normalisation is batch normalisation, so
//! that a comparison judges the compiler's algebra too. Everything runs in the kind of the tensors it is given: f64 is
//! the truth, f32 and bf16 say how much error a precision costs anyway.
//!
//! Operators panic on shapes they cannot take, as tch does; [`Model`] checks what it is given and returns [`Error`].

pub mod attention;
pub mod conv;
pub mod depthwise;
pub mod elementwise;
pub mod gemm;
pub mod image;
pub mod layer_norm;
pub mod loss;
pub mod mask_head;
pub mod mlp;
pub mod mlp_fusion;
pub mod patch_merge;
pub mod resample;
pub mod squeeze_excite;
pub mod token_attention;
pub mod window_attention;

mod models;
mod weights;

use segface_codegen::{Backbone, ModelSpec, WeightSource};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use weights::Store;
pub use weights::Training;

/// What keeps the reference from running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weight source lacks a tensor.
    #[error("tensor `{0}` is missing: the weights must be those of the model asked for")]
    Missing(String),
    /// The input is not a batch of RGB images, or they are so small that a feature map would be empty.
    #[error("input has shape {found:?}, expected [N, 3, H, W] with N ≥ 1 and, for {backbone}, H, W ≥ {least}")]
    Input {
        /// Shape given.
        found: Vec<i64>,
        /// Backbone asked for.
        backbone: Backbone,
        /// The smallest height and width it takes.
        least: i64,
    },
    /// The model warps by landmarks, and there are none or misshapen ones.
    #[error("landmarks have shape {found:?}, expected [{batch}, 5, 2] (x, y of eyes, nose, mouth corners in pixels)")]
    Landmarks {
        /// Shape given, if any were.
        found: Option<Vec<i64>>,
        /// Images in the batch.
        batch: i64,
    },
}

/// What a forward pass yields. All in the kind the model runs in.
#[derive(Debug)]
pub struct Outputs {
    /// [N, T, H′, W′]: one map per class at four times the first tap's size, which is H×W where those are multiples
    /// of 4; at exactly H×W for variants that warp.
    pub logits: Tensor,
    /// The four feature maps [N, C, h, w] at strides 4, 8, 16, 32.
    pub taps: [Tensor; 4],
    /// The fused map [N, 256, h, w] at the first tap's size.
    pub fused: Tensor,
    /// Class tokens [N, T, 256] after the decoder's last norm.
    pub tokens: Tensor,
}

/// A network of the family, in one kind. Weights are converted on first use and kept.
#[derive(Debug)]
pub struct Model<'a> {
    spec: ModelSpec,
    store: Store<'a>,
}

impl<'a> Model<'a> {
    /// The network `spec` with `weights`, run in `kind` (f64, f32 or bf16).
    pub fn new(spec: ModelSpec, weights: &'a dyn WeightSource, kind: Kind) -> Self {
        Model { spec, store: Store::new(weights, kind) }
    }

    /// The network in training mode: batch norms see their batch and move their running statistics by `momentum`, stochastic depth multiplies
    /// the branch at a place of the network by `factor(place, probability, image)`, and every parameter has a gradient.
    pub fn training(
        spec: ModelSpec,
        weights: &'a dyn WeightSource,
        kind: Kind,
        momentum: f64,
        factor: &'a dyn Fn(u32, f32, usize) -> f32,
    ) -> Self {
        let mut model = Model::new(spec, weights, kind);
        model.store.training = Some(Training { momentum, factor, frozen: &|_| false });
        model
    }

    /// The network in training mode over tensors that somebody else holds, by published name, all of `kind`: what has a gradient is what
    /// they say, and running statistics are moved where they lie.
    pub fn over(spec: ModelSpec, tensors: BTreeMap<String, Tensor>, kind: Kind, training: Training<'a>) -> Self {
        Model { spec, store: Store::of_tensors(tensors, kind, training) }
    }

    /// Every tensor that forward passes have used, by published name: in training mode parameters with their gradients, running statistics as
    /// they are now.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.store.tensors()
    }

    /// One inference. `input` [N, 3, H, W] normalised, any kind; `landmarks` [N, 5, 2] in pixels of the input, needed
    /// by variants that warp and ignored by the others.
    pub fn forward(&self, input: &Tensor, landmarks: Option<&Tensor>) -> Result<Outputs, Error> {
        let size = input.size();
        let least = models::least_side(self.spec.backbone);
        let (batch, height, width) = match size[..] {
            [batch, 3, height, width] if batch > 0 && height >= least && width >= least => (batch, height, width),
            _ => return Err(Error::Input { found: size, backbone: self.spec.backbone, least }),
        };
        let landmarks = match (self.spec.variant.warps(), landmarks) {
            (false, _) => None,
            (true, Some(points)) if points.size() == [batch, 5, 2] => Some(points),
            (true, points) => return Err(Error::Landmarks { found: points.map(Tensor::size), batch }),
        };
        let root = self.store.root();
        self.store.places.set(0);
        let mut x = input.to_kind(self.store.kind());
        if let Some(points) = landmarks {
            x = image::warp(&x, points);
        }
        let taps = models::taps(self.spec.backbone, &root, &x)?;
        let fused = models::decoder::fuse(&root, &taps)?;
        let (tokens, mut logits) = models::decoder::decode(&root, self.spec.variant, &fused)?;
        if let Some(points) = landmarks {
            logits = image::unwarp(&logits, points, height, width);
        }
        Ok(Outputs { logits, taps, fused, tokens })
    }

    /// A part of it: tap `stage` (0 to 3) of the backbone [N, C, h, w], from the one before it or from the image `x`. In training, `place` is
    /// that of the stage's first residual branch.
    pub fn stage(&self, stage: usize, x: &Tensor, place: u32) -> Result<Tensor, Error> {
        self.store.places.set(place);
        models::stage(self.spec.backbone, &self.store.root(), stage, x)
    }

    /// The rest: logits [N, T, 4h, 4w] from the taps, in the warped frame where images are warped.
    pub fn decode(&self, taps: &[Tensor; 4]) -> Result<Tensor, Error> {
        let root = self.store.root();
        let fused = models::decoder::fuse(&root, taps)?;
        Ok(models::decoder::decode(&root, self.spec.variant, &fused)?.1)
    }
}

/// One inference of `spec`; see [`Model::forward`].
pub fn forward(
    spec: ModelSpec,
    weights: &dyn WeightSource,
    input: &Tensor,
    landmarks: Option<&Tensor>,
    kind: Kind,
) -> Result<Outputs, Error> {
    Model::new(spec, weights, kind).forward(input, landmarks)
}
