// Attention inside windows, the first rung of the ladder: a thread makes all 32 values of one query and head, from memory.
//
//     qkv [batch·windows, AREA, 3·CHANNELS] (q of all heads, k of all, v of all), score_scale [heads], bias [heads, AREA, AREA]
//     out [batch·windows, AREA, CHANNELS]                             (`segface_kernels::window_attention::WindowCoreSpec`)
//
// Nothing is shared: every thread reads all keys and values of its window again, and a warp's reads of `bias` are AREA apart.
// Exponentials are taken against the largest score so far, so scores are made once. Grid (windows of all images, heads), AREA
// threads rounded up to whole warps. FLOPs 4·AREA·CHANNELS per token.
#pragma once
#include "cuda/memory.cuh"
#include "window_attention/geometry.cuh"

namespace segface::window_attention::naive {

constexpr int HEAD = 32;
constexpr int THREADS = 64;

// V2: rows of q and k are of length one.
template <class E>
__device__ __forceinline__ float read_row(float (&values)[HEAD], const E *row) {
    float squares = 0;
#pragma unroll
    for (int d = 0; d < HEAD; d += CHUNK<E>) {
        float chunk[CHUNK<E>];
        unpack<E>(load_chunk(row + d), chunk);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) {
            values[d + v] = chunk[v];
            squares = fmaf(chunk[v], chunk[v], squares);
        }
    }
    return 1.0f / fmaxf(sqrtf(squares), 1e-12f);
}

template <class E, int WINDOW, int CHANNELS, bool COSINE>
__device__ __forceinline__ void core(const E *qkv, const float *score_scale, const float *bias, E *out, const Plan<WINDOW> &plan) {
    constexpr int AREA = WINDOW * WINDOW;
    const int window = int(blockIdx.x), head = int(blockIdx.y), query = int(threadIdx.x);
    if (query >= AREA) return;
    const E *tokens = qkv + u64(window) * AREA * 3 * CHANNELS + head * HEAD;
    float q[HEAD], other[HEAD], mixed[HEAD] = {};
    float scale = read_row(q, tokens + query * 3 * CHANNELS);
    scale = COSINE ? scale * score_scale[head] : score_scale[head];
    const u64 apart = plan.apart(window, query);
    float largest = -3.0e38f, sum = 0;
    for (int key = 0; key < AREA; key++) {
        const E *token = tokens + key * 3 * CHANNELS;
        const float length = read_row(other, token + CHANNELS);
        float score = 0;
#pragma unroll
        for (int d = 0; d < HEAD; d++) score = fmaf(q[d], other[d], score);
        score = score * (COSINE ? scale * length : scale) + bias[(head * AREA + query) * AREA + key];
        if (apart >> key & 1) score -= 100.0f;
        const float higher = fmaxf(largest, score), fade = expf(largest - higher), weight = expf(score - higher);
        largest = higher;
        sum = sum * fade + weight;
        read_row(other, token + 2 * CHANNELS);
#pragma unroll
        for (int d = 0; d < HEAD; d++) mixed[d] = fmaf(weight, other[d], mixed[d] * fade);
    }
#pragma unroll
    for (int d = 0; d < HEAD; d += CHUNK<E>) {
        float values[CHUNK<E>];
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) values[v] = mixed[d + v] / sum;
        store_chunk(out + (u64(window) * AREA + query) * CHANNELS + head * HEAD + d, pack<E>(values));
    }
}

}  // namespace segface::window_attention::naive
