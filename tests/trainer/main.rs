//! The trainer around an engine: runs that are killed and resumed, several processes, what a run writes, what is wrong with it.
//!
//! The engine here is a small one of its own, a softmax regression of each pixel's class on its colour and place (`pixels`), so that a run
//! takes moments and every gradient can be checked by differences.

#[path = "../finished.rs"]
mod finished;
#[path = "../data/synthetic.rs"]
mod synthetic;

mod command;
mod files;
mod overlap;
mod pixels;
mod process;
mod processes;
mod resume;
mod wrong;
