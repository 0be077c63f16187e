// The MLP's ladder, second rung: naive.cuh's layer by tiles in shared memory, no tensor cores.
//
// A block makes 64 × 64 values, a thread 4 × 4 of them; of k, 16 columns at a time go through shared memory, so that what a block
// reads from memory is used 64 times. Row-major weights as in naive.cuh. The next rungs are gemm's two launches (tensor cores,
// copies under way while others are multiplied, weights in fragment order) and forward.cuh (one launch).
#pragma once
#include "cuda/activation.cuh"
#include "cuda/memory.cuh"

namespace segface::mlp::tiled {

constexpr int SIDE = 64, STEP = 16, THREADS = 256, ROW = SIDE + 4;
constexpr int bytes() { return (2 * STEP * ROW + 2 * SIDE) * 4; }

// Grid (columns / SIDE, rows / SIDE). Operands as in naive.cuh.
template <class E, int K, int N, Act ACT>
__device__ __forceinline__ void layer(const E *x, const float *norm_weight, const float *norm_bias, float eps, const E *weight,
                                      const float *bias, const float *scale, const E *residual, E *out, int rows) {
    float *a = reinterpret_cast<float *>(shared_memory), *b = a + STEP * ROW, *means = b + STEP * ROW, *factors = means + SIDE;
    const int thread = int(threadIdx.x), n0 = int(blockIdx.x) * SIDE, row0 = int(blockIdx.y) * SIDE;
    if (norm_weight) {
        // Four threads to a row.
        const int r = row0 + thread / 4 < rows ? row0 + thread / 4 : rows - 1;
        const E *row = x + u64(r) * K;
        float mean = 0, squares = 0;
        for (int k = thread % 4; k < K; k += 4) mean += widen(row[k]);
        mean += __shfl_xor_sync(~0u, mean, 1);
        mean += __shfl_xor_sync(~0u, mean, 2);
        mean /= float(K);
        for (int k = thread % 4; k < K; k += 4) squares += (widen(row[k]) - mean) * (widen(row[k]) - mean);
        squares += __shfl_xor_sync(~0u, squares, 1);
        squares += __shfl_xor_sync(~0u, squares, 2);
        if (thread % 4 == 0) means[thread / 4] = mean, factors[thread / 4] = rsqrtf(squares / float(K) + eps);
        __syncthreads();
    }
    float sums[4][4] = {};
    for (int k0 = 0; k0 < K; k0 += STEP) {
        for (int i = thread; i < SIDE * STEP; i += THREADS) {
            const int r = i / STEP, k = i % STEP;
            float value = row0 + r < rows && k0 + k < K ? widen(x[u64(row0 + r) * K + k0 + k]) : 0.0f;
            if (norm_weight && k0 + k < K) {
                value = widen(narrow<E>((value - means[r]) * factors[r] * norm_weight[k0 + k] + norm_bias[k0 + k]));
            }
            a[k * ROW + r] = value;
            b[k * ROW + r] = n0 + r < N && k0 + k < K ? widen(weight[u64(n0 + r) * K + k0 + k]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            const Chunk left = load_chunk(a + k * ROW + thread / 16 * 4), right = load_chunk(b + k * ROW + thread % 16 * 4);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    sums[i][j] = fmaf(__uint_as_float(left.word[i]), __uint_as_float(right.word[j]), sums[i][j]);
                }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = row0 + thread / 16 * 4 + i;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int n = n0 + thread % 16 * 4 + j;
            if (r >= rows || n >= N) continue;
            float value = activate<ACT>(sums[i][j] + bias[n]);
            if (scale) value *= scale[n];
            if (residual) value += widen(residual[u64(r) * N + n]);
            out[u64(r) * N + n] = narrow<E>(value);
        }
    }
}

}  // namespace segface::mlp::tiled
