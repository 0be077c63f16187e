// f32 matrices of the token step as packed weights of the image pass (`Mma<P>::load_b_packed`).
//
// The image pass takes A_u, V_u and A_a as it takes constants: rounded, in fragment order, copied 16 bytes a lane. Packing them
// once takes one small launch; every block of the pass would otherwise convert the same 3·8T·256 numbers itself, from twice
// the bytes. The step could write them packed, but then the contract between the nodes of the graph would be this
// kernel's layout.
#pragma once
#include "cuda/mma.cuh"

namespace segface::token_attention {

constexpr int PACK_THREADS = 256;

// Block `block` (`blocks_n` of them side by side) of a matrix [n, k] whose numbers are read by `at(row, column)`, by one warp.
// Columns past k are zeros.
template <class P, class At>
__device__ __forceinline__ void pack_block(u8 *target, int block, int blocks_n, int k, At at) {
    using E = typename P::Element;
    const int lane = lane_id(), row0 = block % blocks_n * PACK_COLUMNS, k0 = block / blocks_n * PACK_K<P>;
    float values[CHUNK<E>];
#pragma unroll
    for (int i = 0; i < CHUNK<E>; i++) {
        // Which number lies at place i of the lane's 16 bytes.
        int row, column;
        if constexpr (sizeof(E) == 2) {
            row = lane / 4, column = 16 * (i / 4) + 8 * (i / 2 % 2) + 2 * (lane % 4) + i % 2;
        } else if constexpr (Mma<P>::K == 8) {
            row = lane / 4, column = 8 * (i / 2) + 4 * (i % 2) + lane % 4;
        } else {
            row = lane % 8, column = 4 * (lane / 8) + i;
        }
        values[i] = k0 + column < k ? at(row0 + row, k0 + column) : 0.0f;
        if constexpr (Mma<P>::K == 8) values[i] = __uint_as_float(round_tf32(__float_as_uint(values[i])));
    }
    store_chunk(target + u64(block) * PACK_BYTES + u32(lane) * 16, pack<E>(values));
}

template <class P>
constexpr int packed_bytes(int n, int k) {
    return n / PACK_COLUMNS * ceil_divide(k, PACK_K<P>) * PACK_BYTES;
}

// Packs, of image blockIdx.y, A_u [8T, 256], V_uᵀ [256, 8T] and A_a [8T, 256]; any may be null. A shared A_a is packed once. Grid (any, batch).
template <class P, int T>
__device__ __forceinline__ void pack_operands(const float *update_scores, const float *update_values, const float *attend_scores,
                                              u8 *packed_update_scores, u8 *packed_update_values, u8 *packed_attend_scores,
                                              bool shared_attend) {
    constexpr int N = 8 * T, SCORES = packed_bytes<P>(N, 256), VALUES = packed_bytes<P>(256, N);
    const int image = int(blockIdx.y), warps = int(gridDim.x) * (PACK_THREADS / 32);
    const u64 offset = u64(image) * (N * 256);
    for (int warp = int(blockIdx.x) * (PACK_THREADS / 32) + int(threadIdx.x) / 32;
         warp < (2 * SCORES + VALUES) / PACK_BYTES; warp += warps) {
        const int part = warp < SCORES / PACK_BYTES ? 0 : warp < 2 * SCORES / PACK_BYTES ? 1 : 2;
        const int block = warp - part * (SCORES / PACK_BYTES);
        if (part < 2) {
            const float *source = part == 0 ? update_scores : attend_scores;
            if (source == nullptr || (part == 1 && shared_attend && image > 0)) continue;
            source += offset;
            u8 *target = (part == 0 ? packed_update_scores : packed_attend_scores) + u64(image) * SCORES;
            pack_block<P>(target, block, T, 256, [&](int row, int column) { return source[row * 256 + column]; });
        } else if (update_values != nullptr) {
            const float *source = update_values + offset;
            pack_block<P>(packed_update_values + u64(image) * VALUES, block, 32, N,
                          [&](int row, int column) { return source[column * 256 + row]; });
        }
    }
}

}  // namespace segface::token_attention
