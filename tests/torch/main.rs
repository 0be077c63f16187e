//! Training by libtorch, and by both engines together: needs the feature `libtorch`.

#[path = "../training/common.rs"]
mod common;
#[path = "../finished.rs"]
mod finished;
#[path = "../training/run.rs"]
mod run;
#[path = "../data/synthetic.rs"]
mod synthetic;

mod command;
mod engines;
