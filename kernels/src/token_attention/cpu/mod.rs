//! The CPU twins.

mod absorb;
mod image_pass;
mod linear;
mod passes;
#[cfg(test)]
mod tests;
mod token_step;

pub use image_pass::image_pass;
pub use token_step::token_step;
