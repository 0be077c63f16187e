//! Operators that move or pool pixels without weights: bilinear resize, channel concat, pixel shuffle, pooling.

pub mod backward;
pub mod cpu;
mod spec;

pub use spec::{BilinearSpec, ConcatSpec, MaxPoolSpec, PixelShuffleSpec, SumPoolSpec};
