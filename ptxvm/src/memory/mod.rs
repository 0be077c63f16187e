//! Memory: one address space for the process and all its devices, as with unified virtual addressing.
//!
//! Device addresses are addresses of the host process. Shared, local and parameter memory have windows of generic
//! addresses far above those.

/// Generic addresses of shared memory start here.
pub const SHARED_WINDOW: u64 = 1 << 48;
/// Generic addresses of local memory start here; the same address means different bytes in every lane.
pub const LOCAL_WINDOW: u64 = 2 << 48;
/// Generic addresses of kernel parameters start here.
pub const PARAM_WINDOW: u64 = 3 << 48;

mod cache;

pub(crate) use cache::AllocationCache;
