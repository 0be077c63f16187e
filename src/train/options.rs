//! What a run is asked for.

use super::{Decay, Schedule};
use crate::data::{Dataset, Preparation};
use segface_codegen::plan::Precision;
use segface_codegen::{ModelSpec, Variant};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What computes losses and gradients. Engines round differently, so that a state is only resumed by the one that it is of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineChoice {
    /// Ours.
    #[default]
    Ours,
    /// Ours, on a CUDA device.
    Cuda,
    /// libtorch.
    Tch,
    /// Ours, but for these blocks of the network, which libtorch computes.
    Mixed(Vec<String>),
}

impl EngineChoice {
    /// Whether it is ours, which recipes do not mention.
    fn is_ours(&self) -> bool {
        *self == EngineChoice::Ours
    }
}

/// How images are varied (`--augment`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variation {
    /// As published: LaPa's by random affine maps, the others not at all.
    #[default]
    Published,
    /// [`crate::data::Augmentation::Strong`].
    Strong,
}

impl Variation {
    /// How samples of `dataset` are prepared for a network of that (width, height).
    pub fn preparation(self, dataset: &Dataset, size: (usize, usize), seed: u64) -> Preparation {
        match self {
            Variation::Published => Preparation::published(dataset, size, seed),
            Variation::Strong => Preparation::strong(dataset, size, seed),
        }
    }

    /// Whether it is the published one, which recipes do not mention.
    fn is_published(&self) -> bool {
        *self == Variation::Published
    }
}

/// Everything that the numbers of a run depend on. A state is only resumed under the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Which network.
    pub model: ModelSpec,
    /// Side of the square input in pixels.
    pub resolution: usize,
    /// Images in a micro-batch, which batch norms and the loss see together (`--train_bs`).
    pub batch: usize,
    /// Micro-batches in a step over all processes: processes × accumulation.
    pub replicas: usize,
    /// Learning rates.
    pub schedule: Schedule,
    /// Length of the run; where the cosine ends.
    pub epochs: u64,
    /// AdamW's β1 and β2.
    pub betas: [f64; 2],
    /// AdamW's ε.
    pub eps: f64,
    /// Decay per unit of learning rate.
    pub weight_decay: f64,
    /// Longest gradient; longer ones are shortened to it.
    pub clip: Option<f64>,
    /// Share of the moving average that a step keeps, once it has run for a while.
    pub ema: Option<f64>,
    /// Whether the backbone keeps its weights and statistics.
    pub freeze_backbone: bool,
    /// Element type of activations; parameters, gradients and moments are f32 in any case.
    pub precision: Precision,
    /// How images are varied.
    #[serde(default, skip_serializing_if = "Variation::is_published")]
    pub augment: Variation,
    /// Seed of the shuffles, the augmentation, stochastic depth and of weights that start at random.
    pub seed: u64,
    /// Images of the train split.
    pub images: usize,
    /// What computes.
    #[serde(default, skip_serializing_if = "EngineChoice::is_ours")]
    pub engine: EngineChoice,
}

impl Recipe {
    /// The published recipe: AdamW with 1e-4 and 1e-5, a tenth from epochs 80 and 200 on, 300 epochs, seed 32.
    pub fn published(model: ModelSpec, resolution: usize, images: usize) -> Recipe {
        Recipe {
            model,
            resolution,
            batch: if model.variant == Variant::Helen { 2 } else { 4 },
            replicas: 1,
            schedule: Schedule { learning_rate: 1e-4, decay: Decay::MultiStep(vec![80, 200]), warmup: 0 },
            epochs: 300,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 1e-5,
            clip: None,
            ema: None,
            freeze_backbone: false,
            precision: Precision::F32,
            augment: Variation::Published,
            seed: 32,
            images,
            engine: EngineChoice::Ours,
        }
    }

    /// Steps of an epoch: as many as every replica has full micro-batches for, the samples being padded by repetition so that they
    /// divide by the replicas, as published.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images.div_ceil(self.replicas) / self.batch) as u64
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps_per_epoch() * self.epochs
    }
}

/// What parameters start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// Random numbers by torchvision's and torch's initialisers.
    #[default]
    Random,
    /// A file: a whole network (safetensors or a published .pt), or a torchvision classifier (.pth or safetensors) for the backbone, with
    /// random numbers for the rest.
    File(PathBuf),
}

/// How a run is carried out; no number depends on it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// The data set's own folder.
    pub data: PathBuf,
    /// Where everything goes.
    pub folder: PathBuf,
    /// What to start from, where nothing is resumed.
    pub start: Start,
    /// Whether to go on from the state in `folder`.
    pub resume: bool,
    /// Stop after this step of the optimizer, as if the run were over; it can be resumed.
    pub stop_after: Option<u64>,
    /// Steps between lines of the log; at least 1.
    pub log_steps: u64,
    /// Steps between states; one is also written at the end of each epoch.
    pub save_steps: u64,
    /// Epochs between weights files; 0 for only one at the end.
    pub save_epochs: u64,
    /// Epochs between validations; 0 for none.
    pub validate_epochs: u64,
    /// Images in one run of the network at validation.
    pub validate_batch: usize,
    /// Whether gradients travel to other processes while the rest of the backward pass is computed, else after it.
    pub overlap: bool,
    /// Threads that compute.
    pub threads: usize,
    /// Threads that read and prepare images.
    pub workers: usize,
    /// Whether to show a progress bar.
    pub progress: bool,
    /// Images per second if nothing but the processors' arithmetic took time, of which the bar shows the share that is reached.
    pub most_images_per_second: Option<f64>,
}
