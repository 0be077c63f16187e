//! What a warp remembers of the allocations that it has used.

/// The allocations that a warp has used of late.
#[derive(Debug, Default)]
pub(crate) struct AllocationCache {}
