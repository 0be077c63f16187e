//! How training images are varied from epoch to epoch.

mod affine;
mod look;
mod scene;

pub use affine::{Affine, RandomAffine};
pub(super) use look::Look;

use super::random::SampleRandom;

/// How images are varied.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Augmentation {
    /// Every image as it is.
    #[default]
    Nothing,
    /// A random affine map, as published for LaPa.
    Affine(RandomAffine),
    /// For networks that shall do on photographs what they learned on few, or on rendered, faces: a mirror, a smaller affine map, another
    /// background, other light and colours, blur and noise. Not published.
    Strong,
}

impl Augmentation {
    /// The affine map of one sample, whose stored image is (width, height), and what is done to its look afterwards.
    pub(super) fn draw(
        &self,
        random: &mut SampleRandom,
        (width, height): (usize, usize),
    ) -> (Option<Affine>, Option<Look>) {
        match self {
            Augmentation::Nothing => (None, None),
            Augmentation::Affine(ranges) => (Some(ranges.draw(random)), None),
            Augmentation::Strong => {
                let shift = 0.08 * width.min(height) as f64;
                let affine = RandomAffine { degrees: 15.0, scale: (0.75, 1.4), shift }.draw(random);
                (Some(affine), Some(Look::draw(random)))
            }
        }
    }
}
