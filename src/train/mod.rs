//! Training: what an engine is, and everything around it.
//!
//! | step | here |
//! |---|---|
//! | which tensors a network has, and where they lie in flat arrays | [`Layout`], [`Entry`], [`Role`] |
//! | forward and backward of one micro-batch | [`Engine`], [`Draws`], [`Loss`] |

mod engine;
mod layout;
pub mod ours;

pub use engine::{Draws, Engine, Loss, Ready};
pub use layout::{ALIGNMENT, Entry, Layout, Role};
