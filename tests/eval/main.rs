//! Evaluation: the published numbers from the published logits, and the command against a second, plain implementation.

#[path = "../finished.rs"]
mod finished;
#[path = "../data/fixtures.rs"]
mod fixtures;
#[path = "../data/synthetic.rs"]
mod synthetic;

mod command;
mod metrics;
