//! The passes, one file each, named after what they do; in the order in which the compiler runs them.
//!
//! Every pass keeps what the graph computes (in real arithmetic) and leaves a graph that can be run.

mod fold_batch_norm;
mod fold_constants;
mod fold_mlp_fusion;
pub(crate) mod fuse_epilogue;
mod fuse_layer_norm;
pub(crate) mod fuse_mask_head;
mod fuse_mlp;
mod fuse_mlp_fusion;
mod fuse_patch_merge;
mod fuse_squeeze_excite;
mod fuse_token_attention;
mod fuse_window_attention;
pub mod lower_precision;
pub mod plan_memory;
pub(crate) mod rewrite;
mod select_outputs;
mod skip_padded_rows;

use crate::ir::Graph;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

pub use lower_precision::lower_precision;
pub use plan_memory::{MemoryPlan, plan_memory};
pub use select_outputs::{drop_dead_nodes, select_outputs};

/// A pass that can be left out: the plan is then slower, not different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Batch norm into the convolution before it.
    FoldBatchNorm,
    /// What depends on weights alone.
    FoldConstants,
    /// MLP fusion's products into one per tap.
    FoldMlpFusion,
    /// Swin's linear layers over real rows only.
    SkipPaddedRows,
    /// The two-way transformer into passes over the image tokens.
    FuseTokenAttention,
    /// Upscaling, hypernetwork product, argmax into one kernel.
    FuseMaskHead,
    /// Swin's attention branch into one kernel.
    FuseWindowAttention,
    /// Swin's downsampling into one kernel.
    FusePatchMerge,
    /// Both layers of an MLP into one kernel.
    FuseMlp,
    /// The folded fusion into one kernel.
    FuseMlpFusion,
    /// Activation, factor, norm and residual into the product before them.
    FuseEpilogue,
    /// Channel sums and gates of squeeze-excite into their neighbours.
    FuseSqueezeExcite,
    /// Layer norm into the product behind it.
    FuseLayerNorm,
}

impl Pass {
    /// Every pass, in the order in which they run: folds first, then the large patterns, then what is left over.
    pub const ALL: [Pass; 13] = [
        Pass::FoldBatchNorm,
        Pass::FoldConstants,
        Pass::FoldMlpFusion,
        Pass::SkipPaddedRows,
        Pass::FuseTokenAttention,
        Pass::FuseMaskHead,
        Pass::FuseWindowAttention,
        Pass::FusePatchMerge,
        Pass::FuseMlp,
        Pass::FuseMlpFusion,
        Pass::FuseEpilogue,
        Pass::FuseSqueezeExcite,
        Pass::FuseLayerNorm,
    ];

    /// Its name: that of its file.
    pub fn name(self) -> &'static str {
        match self {
            Pass::FoldBatchNorm => "fold_batch_norm",
            Pass::FoldConstants => "fold_constants",
            Pass::FoldMlpFusion => "fold_mlp_fusion",
            Pass::SkipPaddedRows => "skip_padded_rows",
            Pass::FuseTokenAttention => "fuse_token_attention",
            Pass::FuseMaskHead => "fuse_mask_head",
            Pass::FuseWindowAttention => "fuse_window_attention",
            Pass::FusePatchMerge => "fuse_patch_merge",
            Pass::FuseMlp => "fuse_mlp",
            Pass::FuseMlpFusion => "fuse_mlp_fusion",
            Pass::FuseEpilogue => "fuse_epilogue",
            Pass::FuseSqueezeExcite => "fuse_squeeze_excite",
            Pass::FuseLayerNorm => "fuse_layer_norm",
        }
    }

    /// Runs it; returns how many places it rewrote.
    pub fn run(self, graph: &mut Graph) -> usize {
        match self {
            Pass::FoldBatchNorm => fold_batch_norm::fold_batch_norm(graph),
            Pass::FoldConstants => fold_constants::fold_constants(graph),
            Pass::FoldMlpFusion => fold_mlp_fusion::fold_mlp_fusion(graph),
            Pass::SkipPaddedRows => skip_padded_rows::skip_padded_rows(graph),
            Pass::FuseTokenAttention => fuse_token_attention::fuse_token_attention(graph),
            Pass::FuseMaskHead => fuse_mask_head::fuse_mask_head(graph),
            Pass::FuseWindowAttention => fuse_window_attention::fuse_window_attention(graph),
            Pass::FusePatchMerge => fuse_patch_merge::fuse_patch_merge(graph),
            Pass::FuseMlp => fuse_mlp::fuse_mlp(graph),
            Pass::FuseMlpFusion => fuse_mlp_fusion::fuse_mlp_fusion(graph),
            Pass::FuseEpilogue => fuse_epilogue::fuse_epilogue(graph),
            Pass::FuseSqueezeExcite => fuse_squeeze_excite::fuse_squeeze_excite(graph),
            Pass::FuseLayerNorm => fuse_layer_norm::fuse_layer_norm(graph),
        }
    }
}

impl FromStr for Pass {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Pass::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let known: Vec<_> = Pass::ALL.iter().map(|p| p.name()).collect();
            format!("unknown pass `{name}`; known are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests;
