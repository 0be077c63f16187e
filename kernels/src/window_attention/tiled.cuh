// Attention inside windows, the second rung: naive.cuh's operands, tiles in shared memory, no tensor cores.
//
// A block takes one window and head. Its q, k, v are read once, 16 bytes a thread, and kept as f32 (V2: q and k at length one);
// a thread makes 4 × 4 scores, then a row's softmax is shared by four threads, then a thread makes 4 × 2 values. Rows in shared
// memory are one word longer than their numbers, so that threads that walk down a column meet different banks.
// Grid (windows of all images, heads). Shared memory: `bytes`.
#pragma once
#include "cuda/memory.cuh"
#include "window_attention/geometry.cuh"

namespace segface::window_attention::tiled {

constexpr int HEAD = 32, TOKENS = 64, THREADS = 256;
constexpr int ROW = HEAD + 1, SCORES = TOKENS + 1;
constexpr int bytes() { return (3 * TOKENS * ROW + TOKENS * SCORES) * 4; }

template <class E, int WINDOW, int CHANNELS, bool COSINE>
__device__ __forceinline__ void core(const E *qkv, const float *score_scale, const float *bias, E *out, const Plan<WINDOW> &plan) {
    constexpr int AREA = WINDOW * WINDOW, CHUNKS = HEAD / CHUNK<E>;
    float *rows = reinterpret_cast<float *>(shared_memory), *scores = rows + 3 * TOKENS * ROW;
    const float *q = rows, *k = rows + TOKENS * ROW, *v = rows + 2 * TOKENS * ROW;
    const int window = int(blockIdx.x), head = int(blockIdx.y), thread = int(threadIdx.x);

    for (int i = thread; i < 3 * TOKENS * CHUNKS; i += THREADS) {
        const int part = i / (TOKENS * CHUNKS), token = i / CHUNKS % TOKENS, d = i % CHUNKS * CHUNK<E>;
        float values[CHUNK<E>];
        const E *at = qkv + (u64(window) * AREA + token) * 3 * CHANNELS + part * CHANNELS + head * HEAD + d;
        unpack<E>(token < AREA ? load_chunk(at) : zero_chunk(), values);
        if (COSINE && part < 2) {
            float squares = 0;
#pragma unroll
            for (int n = 0; n < CHUNK<E>; n++) squares = fmaf(values[n], values[n], squares);
            // The row's other chunks are with the lanes beside this one.
#pragma unroll
            for (int lane = 1; lane < CHUNKS; lane *= 2) squares += __shfl_xor_sync(~0u, squares, lane);
            const float length = 1.0f / fmaxf(sqrtf(squares), 1e-12f);
#pragma unroll
            for (int n = 0; n < CHUNK<E>; n++) values[n] *= length;
        }
#pragma unroll
        for (int n = 0; n < CHUNK<E>; n++) rows[(part * TOKENS + token) * ROW + d + n] = values[n];
    }
    __syncthreads();

    // Rows thread / 16 + 16·i, columns thread % 16 + 16·j.
    const int first_row = thread / 16, first_column = thread % 16;
    float sums[4][4] = {};
    for (int d = 0; d < HEAD; d++) {
        float a[4], b[4];
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = q[(first_row + 16 * i) * ROW + d], b[i] = k[(first_column + 16 * i) * ROW + d];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
    const float scale = score_scale[head];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int query = first_row + 16 * i;
        const u64 apart = query < AREA ? plan.apart(window, query) : 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int key = first_column + 16 * j;
            float score = -3.0e38f;
            if (query < AREA && key < AREA) {
                score = sums[i][j] * scale + bias[(head * AREA + query) * AREA + key] + (apart >> key & 1 ? -100.0f : 0.0f);
            }
            scores[query * SCORES + key] = score;
        }
    }
    __syncthreads();

    // Four threads to a row.
    float *row = scores + thread / 4 * SCORES;
    float largest = -3.0e38f, sum = 0;
    for (int key = thread % 4; key < AREA; key += 4) largest = fmaxf(largest, row[key]);
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
    for (int key = thread % 4; key < AREA; key += 4) {
        row[key] = expf(row[key] - largest);
        sum += row[key];
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    for (int key = thread % 4; key < AREA; key += 4) row[key] /= sum;
    __syncthreads();

    float mixed[4][2] = {};
    for (int key = 0; key < AREA; key++) {
        const float low = v[key * ROW + 2 * first_column], high = v[key * ROW + 2 * first_column + 1];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float weight = scores[(first_row + 16 * i) * SCORES + key];
            mixed[i][0] = fmaf(weight, low, mixed[i][0]);
            mixed[i][1] = fmaf(weight, high, mixed[i][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int query = first_row + 16 * i;
        if (query >= AREA) continue;
        E *at = out + (u64(window) * AREA + query) * CHANNELS + head * HEAD + 2 * first_column;
        at[0] = narrow<E>(mixed[i][0]);
        at[1] = narrow<E>(mixed[i][1]);
    }
}

}  // namespace segface::window_attention::tiled
