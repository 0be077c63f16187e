// Gradients of attention inside windows                               (`segface_kernels::window_attention::backward`).
//
//     S = scale·q·kᵀ + bias + mask (V2: of q and k at length one), P = softmax(S), D_i = Σ_j P_ij·(d_out_i·v_j)
//     dS = P∘(d_out·vᵀ − D), d_v = Pᵀ·d_out, d_q = scale·dS·k, d_k = scale·dSᵀ·q, d_bias += dS, d_scale += Σ dS∘(q·kᵀ)
//
// A block takes one head and every `parts`-th window: its sums of d_bias stay in registers and are left in parts to be added in order.
// All matrices of a window are in shared memory as f32; rows there are one word longer than their numbers, so that threads that
// walk down a column meet different banks. Rows of P sum to one and rows of dS to zero, so keys and values are taken less their
// means: nothing changes but that less cancels. FLOPs 10·32·WINDOW⁴ a head and window.
#pragma once
#include "cuda/backward.cuh"
#include "window_attention/geometry.cuh"

namespace segface::window_attention::backward {

constexpr int HEAD = 32, TOKENS = 64, THREADS = 256;
constexpr int ROW = HEAD + 1, SCORES = TOKENS + 1;
constexpr float MIN_LENGTH = 1e-12f;
// q, k, v, d_out; weights and slopes; 1/length of q and k; means of k and v.
constexpr int bytes() { return (4 * TOKENS * ROW + 2 * TOKENS * SCORES + 2 * TOKENS + 2 * HEAD) * 4; }

// sums[i][j] += Σ_n a[n·A_STEP + row(i)·A_LINE] · b[n·ROW + 2·column + j]
template <int A_STEP, int A_LINE>
__device__ __forceinline__ void mix(float (&sums)[4][2], const float *a, const float *b, int terms, int row, int column) {
    for (int n = 0; n < terms; n++) {
        const float low = b[n * ROW + 2 * column], high = b[n * ROW + 2 * column + 1];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float factor = a[n * A_STEP + (row + 16 * i) * A_LINE];
            sums[i][0] = fmaf(factor, low, sums[i][0]);
            sums[i][1] = fmaf(factor, high, sums[i][1]);
        }
    }
}

// Grid (parts, heads). partial_bias [parts, heads, AREA, AREA], partial_scale [parts, heads]; null where not wanted.
template <class E, int WINDOW, int CHANNELS, bool COSINE>
__device__ __forceinline__ void core(const E *qkv, const float *score_scale, const float *bias, const E *d_out, const E *residual,
                                     E *d_qkv, float *partial_bias, float *partial_scale, int windows, const Plan<WINDOW> &plan) {
    constexpr int AREA = WINDOW * WINDOW, CHUNKS = HEAD / CHUNK<E>;
    float *rows = reinterpret_cast<float *>(shared_memory);
    float *q = rows, *k = q + TOKENS * ROW, *v = k + TOKENS * ROW, *d = v + TOKENS * ROW;
    float *weights = d + TOKENS * ROW, *slopes = weights + TOKENS * SCORES;
    float *inverse = slopes + TOKENS * SCORES, *means = inverse + 2 * TOKENS;
    const int head = int(blockIdx.y), thread = int(threadIdx.x), first_row = thread / 16, first_column = thread % 16;
    const float scale = score_scale[head];
    float bias_sums[4][4] = {}, scale_sum = 0.0f;

    for (int window = int(blockIdx.x); window < windows; window += int(gridDim.x)) {
        __syncthreads();
        for (int i = thread; i < 4 * TOKENS * CHUNKS; i += THREADS) {
            const int part = i / (TOKENS * CHUNKS), token = i / CHUNKS % TOKENS, at = i % CHUNKS * CHUNK<E>;
            const u64 line = u64(window) * AREA + token;
            const E *from = part < 3 ? qkv + line * (3 * CHANNELS) + part * CHANNELS : d_out + line * CHANNELS;
            float values[CHUNK<E>];
            unpack<E>(token < AREA ? load_chunk(from + head * HEAD + at) : zero_chunk(), values);
            if (COSINE && part < 2) {
                float squares = 0.0f;
#pragma unroll
                for (int n = 0; n < CHUNK<E>; n++) squares = fmaf(values[n], values[n], squares);
#pragma unroll
                for (int lane = 1; lane < CHUNKS; lane *= 2) squares += __shfl_xor_sync(~0u, squares, lane);
                const float length = 1.0f / fmaxf(sqrtf(squares), MIN_LENGTH);
#pragma unroll
                for (int n = 0; n < CHUNK<E>; n++) values[n] *= length;
                if (i % CHUNKS == 0) inverse[part * TOKENS + token] = length;
            }
#pragma unroll
            for (int n = 0; n < CHUNK<E>; n++) rows[(part * TOKENS + token) * ROW + at + n] = values[n];
        }
        __syncthreads();
        if (thread < 2 * HEAD) {
            const float *column = (thread < HEAD ? k : v) + thread % HEAD;
            float sum = 0.0f;
            for (int token = 0; token < AREA; token++) sum += column[token * ROW];
            means[thread] = sum / float(AREA);
        }
        __syncthreads();
        for (int i = thread; i < 2 * AREA * HEAD; i += THREADS) {
            const int part = i / (AREA * HEAD), token = i / HEAD % AREA, at = i % HEAD;
            (part == 0 ? k : v)[token * ROW + at] -= means[part * HEAD + at];
        }
        __syncthreads();

        // Scores, and d_out·vᵀ: rows first_row + 16·i, columns first_column + 16·j.
        {
            float sums[4][4] = {}, along[4][4] = {};
            for (int n = 0; n < HEAD; n++) {
                float a[4], b[4], c[4], e[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    a[i] = q[(first_row + 16 * i) * ROW + n], b[i] = k[(first_column + 16 * i) * ROW + n];
                    c[i] = d[(first_row + 16 * i) * ROW + n], e[i] = v[(first_column + 16 * i) * ROW + n];
                }
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
                        along[i][j] = fmaf(c[i], e[j], along[i][j]);
                    }
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query = first_row + 16 * i;
                const u64 apart = query < AREA ? plan.apart(window, query) : 0;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = first_column + 16 * j;
                    float score = 0.0f;
                    if (query < AREA && key < AREA) {
                        score = sums[i][j] * scale + bias[(head * AREA + query) * AREA + key] + (apart >> key & 1 ? -100.0f : 0.0f);
                    }
                    weights[query * SCORES + key] = score;
                    slopes[query * SCORES + key] = along[i][j];
                }
            }
        }
        __syncthreads();

        // P and dS, four threads to a row. What lies past the window is nothing.
        {
            const int query = thread / 4;
            float *weight = weights + query * SCORES, *slope = slopes + query * SCORES;
            float largest = -3.0e38f, sum = 0.0f, mean = 0.0f;
            for (int key = thread % 4; key < AREA; key += 4) largest = fmaxf(largest, weight[key]);
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
            for (int key = thread % 4; key < AREA; key += 4) {
                const float power = expf(weight[key] - largest);
                weight[key] = power;
                sum += power;
                mean = fmaf(power, slope[key], mean);
            }
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            mean += __shfl_xor_sync(~0u, mean, 1);
            mean += __shfl_xor_sync(~0u, mean, 2);
            const float share = 1.0f / sum;
            mean *= share;
            for (int key = thread % 4; key < TOKENS; key += 4) {
                const bool there = query < AREA && key < AREA;
                const float p = there ? weight[key] * share : 0.0f;
                weight[key] = p;
                slope[key] = there ? p * (slope[key] - mean) : 0.0f;
            }
        }
        __syncthreads();

#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) bias_sums[i][j] += slopes[(first_row + 16 * i) * SCORES + first_column + 16 * j];

        // d_q, d_k and d_v: rows as above, two columns.
#pragma unroll
        for (int part = 0; part < 3; part++) {
            float sums[4][2] = {};
            if (part == 0) mix<1, SCORES>(sums, slopes, k, AREA, first_row, first_column);
            else if (part == 1) mix<SCORES, 1>(sums, slopes, q, AREA, first_row, first_column);
            else mix<SCORES, 1>(sums, weights, d, AREA, first_row, first_column);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int token = first_row + 16 * i;
                if (part < 2) {
                    float own[2];
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int at = 2 * first_column + j;
                        own[j] = part == 0 ? q[token * ROW + at] : k[token * ROW + at] + means[at];
                    }
                    // x·d_x, of the 16 lanes that share the row.
                    float along = fmaf(own[0], sums[i][0], own[1] * sums[i][1]);
#pragma unroll
                    for (int lane = 1; lane < 16; lane *= 2) along += __shfl_xor_sync(~0u, along, lane);
                    if (part == 0 && token < AREA) scale_sum += along;
                    float factor = scale;
                    if constexpr (COSINE) {
                        const float length = inverse[part * TOKENS + token];
                        factor *= length;
                        // A length below the least is a constant: nothing flows through it.
                        if (length < 1.0f / MIN_LENGTH) {
#pragma unroll
                            for (int j = 0; j < 2; j++) sums[i][j] = fmaf(-own[j], along, sums[i][j]);
                        }
                    }
#pragma unroll
                    for (int j = 0; j < 2; j++) sums[i][j] *= factor;
                }
                if (token >= AREA) continue;
                const u64 at = (u64(window) * AREA + token) * (3 * CHANNELS) + part * CHANNELS + head * HEAD + 2 * first_column;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    const float share = residual != nullptr ? widen(residual[at + j]) : 0.0f;
                    d_qkv[at + j] = narrow<E>(share + sums[i][j]);
                }
            }
        }
    }

    const u64 block = u64(blockIdx.x) * gridDim.y + u32(head);
    if (partial_bias != nullptr) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int query = first_row + 16 * i, key = first_column + 16 * j;
                if (query < AREA && key < AREA) partial_bias[(block * AREA + query) * AREA + key] = bias_sums[i][j];
            }
    }
    if (partial_scale != nullptr) {
        // All lanes of a row have its sum.
        __syncthreads();
        if (first_column == 0) weights[first_row] = scale_sum;
        __syncthreads();
        if (thread == 0) {
            float sum = 0.0f;
            for (int i = 0; i < 16; i++) sum += weights[i];
            partial_scale[block] = sum;
        }
    }
}

}  // namespace segface::window_attention::backward
