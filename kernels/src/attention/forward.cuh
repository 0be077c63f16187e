// out[b, i, h] = Σ_j softmax_j(q[b, i, h]·k[b, j, h]·scale)·v[b, j, h]        (`segface_kernels::attention::AttentionSpec`)
//
// q, out [batch, queries, heads·HEAD_DIM], k, v [batch, keys, heads·HEAD_DIM]; a batch stride of 0 shares q, k or v.
// FLOPs 4·batch·heads·queries·keys·HEAD_DIM. Only plans without the fused passes (`token_attention`) have this kernel: they are there to be
// compared with, so it is plain: exact f32 in every precision, a warp for each query and head, keys dealt out to lanes, each with a running
// softmax of its own; the 32 meet at the end in a fixed order. k and v are read once for each query, from the caches.
#pragma once
#include "cuda/memory.cuh"

namespace segface::attention {

constexpr int THREADS = 256, QUERIES = THREADS / 32;

template <class E, int HEAD_DIM>
__device__ __forceinline__ void load_head(float (&values)[HEAD_DIM], const E *source) {
    // Rows begin at multiples of HEAD_DIM.
    if constexpr (HEAD_DIM % CHUNK<E> == 0) {
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i += CHUNK<E>) {
            float some[CHUNK<E>];
            unpack<E>(load_chunk(source + i), some);
#pragma unroll
            for (int v = 0; v < CHUNK<E>; v++) values[i + v] = some[v];
        }
    } else {
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i++) values[i] = widen(source[i]);
    }
}

// Grid (groups of QUERIES, heads, batch).
template <class E, int HEAD_DIM>
__device__ __forceinline__ void forward(const E *q, const E *k, const E *v, E *out, int queries, int keys, int q_stride,
                                        int k_stride, int v_stride, float scale) {
    const int lane = int(threadIdx.x) & 31, query = int(blockIdx.x) * QUERIES + int(threadIdx.x) / 32;
    if (query >= queries) return;
    const int head = int(blockIdx.y), image = int(blockIdx.z), width = int(gridDim.y) * HEAD_DIM;
    float mine[HEAD_DIM], sums[HEAD_DIM], row[HEAD_DIM];
    load_head<E, HEAD_DIM>(mine, q + u64(image) * u32(q_stride) + u64(query) * u32(width) + head * HEAD_DIM);
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i++) mine[i] *= scale, sums[i] = 0.0f;
    // Less than any score, and finite, so that a lane without keys has a weight of 0.
    float maximum = -3.0e38f, total = 0.0f;
    const u64 k_begin = u64(image) * u32(k_stride) + head * HEAD_DIM, v_begin = u64(image) * u32(v_stride) + head * HEAD_DIM;
    for (int key = lane; key < keys; key += 32) {
        load_head<E, HEAD_DIM>(row, k + k_begin + u64(key) * u32(width));
        float score = 0;
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i++) score = fmaf(mine[i], row[i], score);
        const float top = fmaxf(maximum, score), keep = expf(maximum - top), weight = expf(score - top);
        load_head<E, HEAD_DIM>(row, v + v_begin + u64(key) * u32(width));
        total = total * keep + weight;
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i++) sums[i] = fmaf(weight, row[i], sums[i] * keep);
        maximum = top;
    }
    float top = maximum;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    const float keep = expf(maximum - top);
    total *= keep;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) total += __shfl_xor_sync(~0u, total, d);
    E *target = out + (u64(image) * u32(queries) + u32(query)) * u32(width) + head * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i++) {
        float sum = sums[i] * keep;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if (lane == i % 32) target[i] = narrow<E>(sum / total);
    }
}

}  // namespace segface::attention
