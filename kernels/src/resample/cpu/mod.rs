//! The CPU twins: output rows are the tasks, channels the vectors.

mod bilinear;
mod moves;
mod pool;

pub use bilinear::bilinear;
pub(crate) use bilinear::{Tap, taps};
pub use moves::{concat, pixel_shuffle};
pub(crate) use pool::merge_bands;
pub use pool::{max_pool, sum_pool};

/// Output elements of one task, about.
const TASK: usize = 1 << 15;

/// How many rows of `row_len` elements make a task.
pub(crate) fn rows_per_task(row_len: usize) -> usize {
    (TASK / row_len.max(1)).max(1)
}
