//! Labelled faces as the three data sets have them on disk, read, augmented and batched as the published loaders do.
//!
//! | step | here |
//! |---|---|
//! | which images a split has | [`Dataset::open`], [`Split`] |
//! | one image with its labels and landmarks, as stored | [`Dataset::read`], [`Raw`] |
//! | augmented, cropped, resized, normalised | [`Preparation::sample`], [`Sample`], [`Augmentation`] |
//! | which rank sees what in which epoch | [`Sampler`] |
//! | batches, prefetched by several threads | [`Loader`], [`Batches`], [`Batch`] |
//! | everything that is wrong with a folder | [`check_folder`], [`FolderReport`] |
//!
//! A trainer's loop:
//!
//! ```no_run
//! # use segface::data::{Dataset, Loader, LoaderOptions, Sampler, Split, Tail};
//! # use segface::Variant;
//! # fn main() -> Result<(), segface::data::DataError> {
//! let dataset = Dataset::open(Variant::Celeb, "CelebAMask-HQ".as_ref(), Split::Train)?;
//! let sampler = Sampler { len: dataset.len(), rank: 0, world_size: 1, seed: 32, shuffle: true, tail: Tail::Pad };
//! let options = LoaderOptions { drop_last: true, ..LoaderOptions::training(&dataset, (256, 256), 4, 32) };
//! let loader = Loader::new(dataset, options);
//! for epoch in 0..300 {
//!     for batch in loader.batches(epoch, sampler.indices(epoch)) {
//!         let batch = batch?; // batch.images [n, H, W, 3] f32, batch.labels [n, H, W] u8, batch.indices [n]
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Sample `i` of epoch `e` is the same bits whatever the number of threads, ranks, and where a run was resumed: random numbers are
//! a function of (seed, epoch, index). To resume in the middle of an epoch, leave out the indices that were used already.

mod augment;
mod celeb;
mod check;
mod dataset;
mod error;
mod helen;
mod labels;
mod landmarks;
mod lapa;
mod lines;
mod loader;
mod prepare;
mod random;
mod sampler;

pub use augment::{Affine, Augmentation, RandomAffine};
pub use check::{FolderReport, SplitReport, check_folder};
pub use dataset::{Dataset, Raw, Split, dataset_named, folder_in, recognise_folder};
pub use error::DataError;
pub use labels::IGNORE;
pub use loader::{Batch, Batches, Loader, LoaderOptions};
pub use prepare::{Preparation, Sample};
pub use sampler::{Sampler, Tail};
