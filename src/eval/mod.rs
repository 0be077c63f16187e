//! How well a network does on a split, as the published evaluation counts it.
//!
//! | step | here |
//! |---|---|
//! | a network over a whole split, last partial batch included | [`evaluate`], [`Evaluation`] |
//! | what was labelled as what | [`Confusion`] |
//! | F1, IoU and accuracy per class and over all | [`Scores`] |
//! | pictures: the confusion matrix, the worst images | [`confusion_picture`], [`worst_sheet`] |

mod confusion;
mod picture;
mod run;
mod scores;

pub use confusion::Confusion;
pub use picture::{Shown, confusion_picture, sample_sheet, worst_sheet};
pub use run::{Evaluation, ImageScore, evaluate, same_classes, show};
pub use scores::{ClassScore, MergedScore, Scores};
