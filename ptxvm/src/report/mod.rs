//! What the checked and profile modes have to say, as text on standard error and as JSON.

mod exit;
mod finding;
mod json;
mod text;

pub(crate) use exit::{arm, arm_checked};
pub use exit::{flush, summary};
pub use finding::{AllocationNote, Finding, Findings, Other, Shrunk, Spot};
pub use json::{to_json, write};
pub use text::render;
