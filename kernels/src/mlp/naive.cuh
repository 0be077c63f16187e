// The MLP's ladder, first rung: a thread makes one hidden value, then one value of the result, from memory.
//
//     hidden[r, j] = act(W1[j] · norm(x[r]) + b1[j]),   sums[r, n] = W2[n] · hidden[r] + b2[n], then scale, norm and residual
//
// Weights are row-major here, [HIDDEN, CHANNELS] and [CHANNELS, HIDDEN]. Neighbouring threads have neighbouring columns, so each
// reads a row of weights of its own: what tiled.cuh cures. An epilogue's norm is a launch of layer_norm more.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/memory.cuh"

namespace segface::mlp::naive {

constexpr int THREADS = 128;

// Grid (columns / THREADS, rows). With `norm_weight`, x's row is normed first; every thread takes its moments again. `scale` and
// `residual` may be null.
template <class E, int K, int N, Act ACT>
__device__ __forceinline__ void layer(const E *x, const float *norm_weight, const float *norm_bias, float eps, const E *weight,
                                      const float *bias, const float *scale, const E *residual, E *out) {
    const int n = int(blockIdx.x) * THREADS + int(threadIdx.x);
    const u64 r = blockIdx.y;
    if (n >= N) return;
    const E *row = x + r * K;
    float mean = 0, factor = 1;
    if (norm_weight) {
        float squares = 0;
        for (int k = 0; k < K; k++) mean += widen(row[k]);
        mean /= float(K);
        for (int k = 0; k < K; k++) squares += (widen(row[k]) - mean) * (widen(row[k]) - mean);
        factor = rsqrtf(squares / float(K) + eps);
    }
    float sum = 0;
    for (int k = 0; k < K; k++) {
        float value = widen(row[k]);
        if (norm_weight) value = widen(narrow<E>((value - mean) * factor * norm_weight[k] + norm_bias[k]));
        sum = fmaf(value, widen(weight[u64(n) * K + k]), sum);
    }
    float value = activate<ACT>(sum + bias[n]);
    if (scale) value *= scale[n];
    if (residual) value += widen(residual[r * N + n]);
    out[r * N + n] = narrow<E>(value);
}

}  // namespace segface::mlp::naive
