//! The CPU twin.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod fused;
mod geometry;
mod head;
mod unfused;

#[cfg(test)]
mod tests;

pub use fused::window_attention;
pub(super) use geometry::{Geometry, MAX_TOKENS, Window};
pub(super) use head::{FLOOR, HEAD, MASK, MIN_LENGTH, NO_KEY};
pub use unfused::{window_core, window_gather, window_scatter};
