// Gradients of the gate of squeeze-excite                             (`segface_kernels::squeeze_excite::backward`).
//
//     m = sums/pixels,  a = W1·m + b1,  h = act(a),  z = W2·h + b2,  gate = gate_act(z)
//     d_z = d_gate·gate_act′(z),  d_W2 += d_z·hᵀ,  d_b2 += d_z,  d_a = (W2ᵀ·d_z)·act′(a),  d_W1 += d_a·mᵀ,  d_b1 += d_a
//     d_sums (+)= W1ᵀ·d_a/pixels
//
// W1 [S, C], W2 [C, S], all f32; a few small products per image in four launches, since each needs all of the one before.
#pragma once
#include "cuda/backward.cuh"

namespace segface::squeeze_excite {

constexpr int BACKWARD_THREADS = 256;

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int d = 1; d < 32; d *= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// a [batch, S]: a warp a number. Grid (S / 8, batch).
template <int C, int S>
__device__ __forceinline__ void squeeze(const float *sums, const float *weight, const float *bias, float *a, float pixels) {
    const int lane = int(threadIdx.x) % 32, s = int(blockIdx.x) * (BACKWARD_THREADS / 32) + int(threadIdx.x) / 32;
    const u64 image = blockIdx.y;
    if (s >= S) return;
    float sum = 0.0f;
    for (int c = lane; c < C; c += 32) sum = fmaf(weight[s * C + c], sums[image * C + c] / pixels, sum);
    sum = sum_of_warp(sum);
    if (lane == 0) a[image * S + s] = sum + bias[s];
}

// d_z [batch, C]: a warp a number. Grid (C / 8, batch).
template <int C, int S, Act ACT, Act GATE_ACT>
__device__ __forceinline__ void excite(const float *a, const float *weight, const float *bias, const float *d_gate, float *d_z) {
    const int lane = int(threadIdx.x) % 32, c = int(blockIdx.x) * (BACKWARD_THREADS / 32) + int(threadIdx.x) / 32;
    const u64 image = blockIdx.y;
    if (c >= C) return;
    float sum = 0.0f;
    for (int s = lane; s < S; s += 32) sum = fmaf(weight[c * S + s], activate<ACT>(a[image * S + s]), sum);
    sum = sum_of_warp(sum);
    if (lane == 0) d_z[image * C + c] = d_gate[image * C + c] * derivative<GATE_ACT>(sum + bias[c]);
}

// d_a [batch, S]. A block has 32 numbers, a lane each, and every warp an eighth of the terms, whose weights lie side by side; warps' sums
// meet in order. Grid (S / 32, batch).
template <int C, int S, Act ACT>
__device__ __forceinline__ void slopes(const float *a, const float *weight, const float *d_z, float *d_a) {
    constexpr int WARPS = BACKWARD_THREADS / 32;
    __shared__ float buffer[WARPS][32];
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, s = int(blockIdx.x) * 32 + lane;
    const u64 image = blockIdx.y;
    float sum = 0.0f;
    if (s < S) {
        for (int c = warp; c < C; c += WARPS) sum = fmaf(weight[c * S + s], d_z[image * C + c], sum);
    }
    buffer[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || s >= S) return;
    sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += buffer[w][lane];
    d_a[image * S + s] = sum * derivative<ACT>(a[image * S + s]);
}

// d_sums [batch, C], a thread a number, of blockIdx.y < batch; the row behind those adds the parameters' gradients up, images in order: a
// thread a column c of W1 and of W2ᵀ. Null where nothing is trained. Grid (C / BACKWARD_THREADS, batch + 1).
template <int C, int S, Act ACT>
__device__ __forceinline__ void finish(const float *sums, const float *a, const float *weight, const float *d_z, const float *d_a,
                                       const float *residual, float *d_sums, float *d_weight1, float *d_bias1, float *d_weight2,
                                       float *d_bias2, float pixels, int batch) {
    const int c = int(blockIdx.x) * BACKWARD_THREADS + int(threadIdx.x);
    if (c >= C) return;
    if (int(blockIdx.y) < batch) {
        const u64 image = blockIdx.y;
        float sum = 0.0f;
        for (int s = 0; s < S; s++) sum = fmaf(weight[s * C + c], d_a[image * S + s], sum);
        const float value = sum / pixels;
        d_sums[image * C + c] = residual != nullptr ? residual[image * C + c] + value : value;
        return;
    }
    for (int image = 0; image < batch; image++) {
        const float mean = sums[image * C + c] / pixels, slope = d_z[image * C + c];
        for (int s = 0; s < S; s++) {
            if (d_weight1 != nullptr) d_weight1[s * C + c] = fmaf(d_a[image * S + s], mean, d_weight1[s * C + c]);
            if (d_weight2 != nullptr) d_weight2[c * S + s] = fmaf(slope, activate<ACT>(a[image * S + s]), d_weight2[c * S + s]);
        }
        if (d_bias2 != nullptr) d_bias2[c] += slope;
    }
    for (int s = c; s < S && d_bias1 != nullptr; s += C) {
        for (int image = 0; image < batch; image++) d_bias1[s] += d_a[image * S + s];
    }
}

}  // namespace segface::squeeze_excite
