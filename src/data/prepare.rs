//! From a stored image to what a network is shown.

use super::augment::Look;
use super::labels::resize_nearest;
use super::landmarks::five_points;
use super::random::SampleRandom;
use super::{Affine, Augmentation, DataError, Dataset, RandomAffine, Raw, Split};
use crate::image::{Format, Photo};
use segface_codegen::Variant;
use segface_kernels::Context;
use segface_kernels::image::{FaceWarp, Layout, Resampler, Window};

/// How samples are prepared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation {
    /// Width and height of the network's input. The aspect ratio is not kept.
    pub size: (usize, usize),
    /// How images are varied.
    pub augment: Augmentation,
    /// Seed of that.
    pub seed: u64,
    /// Whether images are warped by the face's landmarks, as LaPa's networks want it. Labels never are: the network's logits are
    /// un-warped before they meet them.
    pub warp: bool,
}

impl Preparation {
    /// Images as they are, for evaluation by a network of `variant`.
    pub fn plain(variant: Variant, size: (usize, usize)) -> Self {
        Self { size, augment: Augmentation::Nothing, seed: 0, warp: variant.warps() }
    }

    /// [`Augmentation::Strong`] for the train split, nothing elsewhere.
    pub fn strong(dataset: &Dataset, size: (usize, usize), seed: u64) -> Self {
        let augment = if dataset.split() == Split::Train { Augmentation::Strong } else { Augmentation::Nothing };
        Self { augment, seed, ..Self::plain(dataset.variant(), size) }
    }

    /// The published augmentation: random affine maps for LaPa's train split, nothing elsewhere.
    pub fn published(dataset: &Dataset, size: (usize, usize), seed: u64) -> Self {
        let augmented = dataset.variant() == Variant::Lapa && dataset.split() == Split::Train;
        let augment = if augmented { Augmentation::Affine(RandomAffine::LAPA) } else { Augmentation::Nothing };
        Self { augment, seed, ..Self::plain(dataset.variant(), size) }
    }
}

/// One image as a network is shown it, with its truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// `[height, width, 3]`, normalised, warped if that was asked for.
    pub image: Vec<f32>,
    /// `[height, width]`: class ids or [`super::IGNORE`], not warped.
    pub labels: Vec<u8>,
    /// Left eye, right eye, nose tip, left and right corner of the mouth in pixels of the un-warped image; zeros for CelebAMask-HQ, which
    /// has no landmarks.
    pub points: [[f32; 2]; 5],
    /// The warp, if there is one: logits go back through [`FaceWarp::unwarp`].
    pub warp: Option<FaceWarp>,
}

impl Preparation {
    /// Reads and prepares image `index` for `epoch`. The same arguments give the same bits, wherever and whenever.
    ///
    /// # Errors
    /// As [`Dataset::read`], and when landmarks define no warp.
    pub fn sample(&self, ctx: &mut Context, dataset: &Dataset, epoch: u64, index: usize) -> Result<Sample, DataError> {
        let raw = dataset.read(index)?;
        let mut random = SampleRandom::new(self.seed, epoch, index);
        let (affine, look) = self.augment.draw(&mut random, (raw.photo.width, raw.photo.height));
        self.finish(ctx, dataset, index, raw, affine, look)
    }

    /// Prepares image `index` of `dataset`, as it was read, under an affine map of the caller's choice. `augment` and `seed` play no part.
    ///
    /// # Errors
    /// When landmarks are missing or define no warp.
    pub fn prepare(
        &self,
        ctx: &mut Context,
        dataset: &Dataset,
        index: usize,
        raw: Raw,
        affine: Option<Affine>,
    ) -> Result<Sample, DataError> {
        self.finish(ctx, dataset, index, raw, affine, None)
    }

    fn finish(
        &self,
        ctx: &mut Context,
        dataset: &Dataset,
        index: usize,
        raw: Raw,
        affine: Option<Affine>,
        look: Option<Look>,
    ) -> Result<Sample, DataError> {
        let Raw { mut photo, mut labels, landmarks, window } = raw;
        let stored = (photo.width, photo.height);
        if let Some(affine) = &affine {
            let pixels = affine.image(&photo.pixels, photo.width, photo.height);
            photo = Photo { pixels, format: Format::Png, ..photo };
            labels = affine.at_scale(labels.width as f64 / stored.0 as f64).labels(&labels);
        }
        let (width, height) = self.size;
        let mut image = vec![0f32; 3 * width * height];
        let resampler = Resampler::new((window.width, window.height), self.size);
        resampler.resize_normalise(ctx, photo.view().window(window), Layout::Nhwc, &mut image);
        // CelebAMask-HQ's masks have a size of their own, and no window.
        let label_window = match dataset.variant() {
            Variant::Celeb => Window::whole(labels.width, labels.height),
            _ => window,
        };
        let mut labels = resize_nearest(&labels, label_window, self.size);
        let mut points = [[0.0; 2]; 5];
        if !landmarks.is_empty() {
            points = five_points(dataset.variant(), &landmarks, stored, affine.as_ref(), window, self.size);
        }
        if let Some(look) = look {
            look.apply(&mut image, &mut labels, &mut points, self.size, dataset.variant());
        }
        if !self.warp {
            return Ok(Sample { image, labels, points, warp: None });
        }
        let no_warp = |reason: String| DataError::File {
            path: dataset.landmarks_file(index),
            reason: format!("`{}`: {reason}", dataset.name(index)),
        };
        if landmarks.is_empty() {
            return Err(no_warp(format!(
                "{} has no landmarks, by which LaPa's networks warp faces",
                dataset.variant()
            )));
        }
        let warp = FaceWarp::fit(&points, self.size, self.size).map_err(|error| no_warp(error.to_string()))?;
        let mut warped = vec![0f32; image.len()];
        warp.warp(ctx, &image, 3, &mut warped);
        Ok(Sample { image: warped, labels, points, warp: Some(warp) })
    }
}
