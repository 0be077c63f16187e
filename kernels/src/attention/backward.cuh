// Gradients of un-fused attention                                      (`segface_kernels::attention::backward`).
//
//     S = scale·q·kᵀ, P = softmax(S), D_i = Σ_j P_ij·(d_out_i·v_j), dS = scale·P∘(d_out·vᵀ − D)
//     d_q = dS·k, d_k = dSᵀ·q, d_v = Pᵀ·d_out
//
// Operands as forward's; exact f32. `queries` makes d_q and leaves maximum, 1/Σ and D of each query's softmax, by which `keys` makes
// d_k and d_v: P is computed four times and never stored. LANES threads (a warp or a block) share a query or a key, each with every
// LANES-th partner; their sums meet in a fixed order. FLOPs 20·batch·heads·queries·keys·HEAD_DIM.
#pragma once
#include "attention/forward.cuh"
#include "cuda/vector.cuh"

namespace segface::attention {

constexpr int BACKWARD_THREADS = 256, BACKWARD_WARPS = BACKWARD_THREADS / 32;

// What lanes hold becomes their sum, in all lanes of a warp; of a block, in all its threads. `buffer`: a number a warp.
template <int LANES>
__device__ __forceinline__ float sum_of_lanes(float x, float *buffer) {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) x += __shfl_xor_sync(~0u, x, d);
    if constexpr (LANES > 32) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = x;
        __syncthreads();
        x = 0.0f;
#pragma unroll
        for (int w = 0; w < BACKWARD_WARPS; w++) x += buffer[w];
    }
    return x;
}
template <int LANES>
__device__ __forceinline__ float largest_of_lanes(float x, float *buffer) {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    if constexpr (LANES > 32) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) buffer[threadIdx.x / 32] = x;
        __syncthreads();
#pragma unroll
        for (int w = 0; w < BACKWARD_WARPS; w++) x = fmaxf(x, buffer[w]);
    }
    return x;
}

// Sums of all lanes' rows, written by the first of them to `target`. `buffer`: a row a warp.
template <int LANES, class E, int HEAD_DIM>
__device__ __forceinline__ void put_row(float (&row)[HEAD_DIM], E *target, float *buffer) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    if constexpr (LANES > 32) __syncthreads();
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i++) {
        float sum = row[i];
#pragma unroll
        for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
        if constexpr (LANES > 32) {
            if (lane == 0) buffer[warp * HEAD_DIM + i] = sum;
        } else {
            if (lane == i % 32) target[i] = narrow<E>(sum);
        }
    }
    if constexpr (LANES > 32) {
        __syncthreads();
        if (threadIdx.x < HEAD_DIM) {
            float sum = 0.0f;
#pragma unroll
            for (int w = 0; w < BACKWARD_WARPS; w++) sum += buffer[w * HEAD_DIM + threadIdx.x];
            target[threadIdx.x] = narrow<E>(sum);
        }
    }
}

template <int HEAD_DIM>
__device__ __forceinline__ float dot(const float (&a)[HEAD_DIM], const float (&b)[HEAD_DIM]) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < HEAD_DIM; i++) sum = fmaf(a[i], b[i], sum);
    return sum;
}

// P from q·k, the largest score and 1/Σ: the same bits wherever it is computed.
__device__ __forceinline__ float probability(float product, float scale, float top, float inverse) {
    return expf(__fmaf_rn(product, scale, -top)) * inverse;
}

// Numbers from one image to the next; 0 where all share one.
struct Strides {
    int q, k, v;
};

// Grid (queries · LANES / BACKWARD_THREADS, heads, batch). statistics [batch, heads, queries, 3]. Where images share q, d_q gets a map an
// image all the same.
template <class E, int HEAD_DIM, int LANES>
__device__ __forceinline__ void queries_backward(const E *q, const E *k, const E *v, const E *d_out, E *d_q, float *statistics,
                                                 int queries, int keys, Strides strides, float scale) {
    __shared__ float buffer[BACKWARD_WARPS * HEAD_DIM];
    const int lane = int(threadIdx.x) % LANES, query = (int(blockIdx.x) * BACKWARD_THREADS + int(threadIdx.x)) / LANES;
    if (query >= queries) return;
    const int head = int(blockIdx.y), image = int(blockIdx.z), width = int(gridDim.y) * HEAD_DIM;
    const u64 own = (u64(image) * u32(queries) + u32(query)) * u32(width) + head * HEAD_DIM;
    float mine[HEAD_DIM], slope[HEAD_DIM], row[HEAD_DIM], sums[HEAD_DIM] = {};
    load_head<E, HEAD_DIM>(mine, q + u64(image) * u32(strides.q) + u64(query) * u32(width) + head * HEAD_DIM);
    load_head<E, HEAD_DIM>(slope, d_out + own);
    const E *k_begin = k + u64(image) * u32(strides.k) + head * HEAD_DIM, *v_begin = v + u64(image) * u32(strides.v) + head * HEAD_DIM;
    float maximum = -3.0e38f, total = 0.0f, mean = 0.0f;
    for (int key = lane; key < keys; key += LANES) {
        load_head<E, HEAD_DIM>(row, k_begin + u64(key) * u32(width));
        const float score = dot(mine, row) * scale;
        load_head<E, HEAD_DIM>(row, v_begin + u64(key) * u32(width));
        const float along = dot(slope, row);
        const float top = fmaxf(maximum, score), keep = expf(maximum - top), weight = expf(score - top);
        total = fmaf(total, keep, weight);
        mean = fmaf(mean, keep, weight * along);
        maximum = top;
    }
    const float top = largest_of_lanes<LANES>(maximum, buffer), keep = expf(maximum - top);
    const float inverse = 1.0f / sum_of_lanes<LANES>(total * keep, buffer);
    mean = sum_of_lanes<LANES>(mean * keep, buffer) * inverse;
    // What rounding left of D, by the very P that follow: rows of dS then sum to zero as they must, and the gradient of a bias of all keys
    // is not their noise.
    float rest = 0.0f;
    for (int key = lane; key < keys; key += LANES) {
        load_head<E, HEAD_DIM>(row, k_begin + u64(key) * u32(width));
        const float weight = probability(dot(mine, row), scale, top, inverse);
        load_head<E, HEAD_DIM>(row, v_begin + u64(key) * u32(width));
        rest = fmaf(weight, dot(slope, row) - mean, rest);
    }
    mean += sum_of_lanes<LANES>(rest, buffer);
    for (int key = lane; key < keys; key += LANES) {
        load_head<E, HEAD_DIM>(row, v_begin + u64(key) * u32(width));
        const float along = dot(slope, row) - mean;
        load_head<E, HEAD_DIM>(row, k_begin + u64(key) * u32(width));
        const float d = probability(dot(mine, row), scale, top, inverse) * along * scale;
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i++) sums[i] = fmaf(d, row[i], sums[i]);
    }
    put_row<LANES>(sums, d_q + own, buffer);
    if (lane == 0) {
        float *to = statistics + ((u64(image) * gridDim.y + u32(head)) * u32(queries) + u32(query)) * 3;
        to[0] = top, to[1] = inverse, to[2] = mean;
    }
}

// Grid (keys · LANES / BACKWARD_THREADS, heads, batch). A map an image of each, as above.
template <class E, int HEAD_DIM, int LANES>
__device__ __forceinline__ void keys_backward(const E *q, const E *k, const E *v, const E *d_out, const float *statistics, E *d_k, E *d_v,
                                              int queries, int keys, Strides strides, float scale) {
    __shared__ float buffer[BACKWARD_WARPS * HEAD_DIM];
    const int lane = int(threadIdx.x) % LANES, key = (int(blockIdx.x) * BACKWARD_THREADS + int(threadIdx.x)) / LANES;
    if (key >= keys) return;
    const int head = int(blockIdx.y), image = int(blockIdx.z), width = int(gridDim.y) * HEAD_DIM;
    const u64 at = u64(key) * u32(width) + head * HEAD_DIM;
    float mine[HEAD_DIM], values[HEAD_DIM], row[HEAD_DIM], d_mine[HEAD_DIM] = {}, d_values[HEAD_DIM] = {};
    load_head<E, HEAD_DIM>(mine, k + u64(image) * u32(strides.k) + at);
    load_head<E, HEAD_DIM>(values, v + u64(image) * u32(strides.v) + at);
    const E *q_begin = q + u64(image) * u32(strides.q) + head * HEAD_DIM;
    const E *d_begin = d_out + u64(image) * u32(queries) * u32(width) + head * HEAD_DIM;
    const float *of_query = statistics + (u64(image) * gridDim.y + u32(head)) * u32(queries) * 3;
    for (int query = lane; query < queries; query += LANES) {
        load_head<E, HEAD_DIM>(row, q_begin + u64(query) * u32(width));
        const float weight = probability(dot(mine, row), scale, of_query[3 * query], of_query[3 * query + 1]);
        float slope[HEAD_DIM];
        load_head<E, HEAD_DIM>(slope, d_begin + u64(query) * u32(width));
        const float d = weight * (dot(slope, values) - of_query[3 * query + 2]) * scale;
#pragma unroll
        for (int i = 0; i < HEAD_DIM; i++) {
            d_values[i] = fmaf(weight, slope[i], d_values[i]);
            d_mine[i] = fmaf(d, row[i], d_mine[i]);
        }
    }
    const u64 own = u64(image) * u32(keys) * u32(width) + at;
    put_row<LANES>(d_mine, d_k + own, buffer);
    put_row<LANES>(d_values, d_v + own, buffer);
}

}  // namespace segface::attention
