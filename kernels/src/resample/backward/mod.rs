//! Gradients of the resamplers, on the CPU: each is the adjoint of a linear map (but max pooling's, which goes to where the
//! largest value was), written as a gather, so that every element of the input's gradient is one task's.

mod bilinear;
mod moves;
mod pool;

pub use bilinear::bilinear_backward;
pub(crate) use moves::move_row;
pub use moves::{concat_backward, pixel_shuffle_backward};
pub use pool::{max_pool_backward, sum_pool_backward};
