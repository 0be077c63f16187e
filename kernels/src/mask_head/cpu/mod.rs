//! The CPU twins.

mod head;
#[cfg(test)]
mod tests;
mod unfused;
mod vectors;

pub use head::mask_head;
pub use unfused::{arg_max, mask_product};
