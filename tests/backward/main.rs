//! Every backward kernel against libtorch's autograd in f64 by the rule of `judge`, and against finite differences.

mod adamw;
mod attention;
mod layer_norm;
mod loss;
mod mask_head;
mod patch_merge;
mod resample;
mod speed;
mod warp;
mod window_attention;
