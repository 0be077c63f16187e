//! Slower programs, told by a counter.

use super::{Mutant, profile};
use crate::mutants::scenarios::*;

pub(super) const PROFILES: &[Mutant] = &[
    profile("padding_removed", TRANSPOSE, "[TILE][TILE + 1]", "[TILE][TILE]", "bank-conflicts"),
    profile("ldmatrix_padding_removed", MMA, "constexpr int PAD = 8;", "constexpr int PAD = 0;", "bank-conflicts"),
    profile("attention_swizzle_removed", ATTENTION, "((chunk ^ (row & 7)) << 4)", "(chunk << 4)", "bank-conflicts"),
    profile(
        "tile_of_a_swizzle_removed",
        PIPELINED,
        "load_matrices(fa[i], as + row * 64 + ((chunk ^ (row >> 1 & 3)) << 4));",
        "load_matrices(fa[i], as + row * 64 + (chunk << 4));",
        "bank-conflicts",
    ),
    profile(
        "tree_with_strides",
        TREE,
        "if (thread < half) {\n            tree[thread] += tree[thread + half];",
        "unsigned stride = blockDim.x / (2 * half);\n        if (thread < half) {\n            tree[2 * stride * thread] += tree[2 * stride * thread + stride];",
        "bank-conflicts",
    ),
    profile(
        "columns_read_by_rows",
        TRANSPOSE,
        "= in[(y + j) * width + x];\n        }\n    }\n    __syncthreads();",
        "= in[(x * height + y + j) % (width * height)];\n        }\n    }\n    __syncthreads();",
        "sectors",
    ),
    profile(
        "a_row_in_chunks_per_lane",
        SOFTMAX_WARP,
        "for (int i = lane; i < columns; i += 32) {\n        largest",
        "for (int i = lane * (columns / 32); i < (lane + 1) * (columns / 32); ++i) {\n        largest",
        "sectors",
    ),
    profile(
        "strided_elements",
        GELU,
        "float x = in[i];\n        out[i] = 0.5f * x * (1.0f + erff",
        "float x = in[i * 9 % n];\n        out[i] = 0.5f * x * (1.0f + erff",
        "sectors",
    ),
];
