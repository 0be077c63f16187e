//! Pixels: resize, normalise, warp, labels.
