//! Training: what an engine is, and everything around it.
//!
//! | step | here |
//! |---|---|
//! | which tensors a network has, and where they lie in flat arrays | [`Layout`], [`Entry`], [`Role`] |
//! | forward and backward of one micro-batch | [`Engine`], [`Draws`], [`Loss`] |
//! | what a run's numbers depend on, and how it is carried out | [`Recipe`], [`Schedule`], [`RunOptions`] |
//! | what it starts from: random numbers, a classifier, a network | [`initial()`], [`Start`] |
//! | other processes, sums over all of them in one order | [`Group`], [`Place`], [`connect`] |
//! | the run itself | [`train`], [`Summary`] |
//! | its state on disk, from which it goes on bit for bit | [`State`], [`load`] |
//! | what it says: lines of JSON, TensorBoard's events, curves | [`Line`], [`curves_png`], [`curves_svg`] |
//! | its network as published weights | [`export()`], [`weights`] |

pub mod cuda;
mod curves;
mod engine;
mod error;
mod events;
mod export;
mod group;
mod guard;
mod initial;
mod layout;
mod log;
mod optimizer;
mod options;
pub mod ours;
mod progress;
mod run;
mod schedule;
mod state;
mod step;
#[cfg(feature = "libtorch")]
pub mod torch;
mod validate;

pub use curves::{png as curves_png, svg as curves_svg};
pub use engine::{Draws, Engine, Loss, Ready};
pub use error::TrainError;
pub use export::{export, weights};
#[cfg(unix)]
pub use group::connect_mpi;
pub use group::{Chain, Group, Link, Place, connect};
pub use initial::{Arrays, initial};
pub use layout::{ALIGNMENT, Entry, Layout, Role};
pub use log::{LOG, Line};
pub use options::{EngineChoice, Recipe, RunOptions, Start, Variation};
pub use run::{Summary, train};
pub use schedule::{Decay, Schedule};
pub use state::{PREVIOUS, STATE, State, Tally, load, recipe_of};
