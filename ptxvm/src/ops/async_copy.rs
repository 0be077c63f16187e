//! `cp.async`: copies from global to shared memory that are performed late, when they are waited for.

/// The copies of a warp that are under way.
#[derive(Debug, Default)]
pub(crate) struct Copies {}
