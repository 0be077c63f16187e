// The lowest rung of MLP fusion: the formula as it stands, one thread for each number of a coarse map, then one for each of F.
// For comparison and for tests of the rungs above:
//
//   naive          this file: operands of every multiply-add come from the caches
//   tiled          `forward.cuh` with `Plain`, in f32 `Single`: tiles in shared memory, fused multiply-adds
//   tensor core    `forward.cuh` with `Half`, `Bfloat`, `Tf32`
//
// Weights row-major [width, C_i] in the element type.
#pragma once
#include "mlp_fusion/forward.cuh"

namespace segface::mlp_fusion {

constexpr int NAIVE_THREADS = 256;

template <class E>
__device__ __forceinline__ float naive_dot(const E *x, const E *weight, int channels) {
    float sum = 0;
    for (int c = 0; c < channels; c++) sum = fmaf(widen(x[c]), widen(weight[c]), sum);
    return sum;
}

// projected[pixels, width] = x·weightᵀ. Grid (blocks of pixels·width).
template <class E>
__device__ __forceinline__ void naive_project(const E *x, const E *weight, E *projected, int pixels, int channels, int width) {
    const u64 index = u64(blockIdx.x) * NAIVE_THREADS + threadIdx.x;
    const int pixel = int(index / u32(width)), n = int(index % u32(width));
    if (pixel >= pixels) return;
    projected[index] = narrow<E>(naive_dot(x + u64(pixel) * u32(channels), weight + u64(n) * u32(channels), channels));
}

// F from tap 0 and the projected maps of the others. Grid (blocks of batch·height·width·columns).
template <class E>
__device__ __forceinline__ void naive_fuse(const E *x, const E *weight, const float *bias, E *out, int batch, int height, int width,
                                           int channels, int columns, const Coarse (&taps)[3]) {
    const u64 index = u64(blockIdx.x) * NAIVE_THREADS + threadIdx.x;
    const int pixel = int(index / u32(columns)), n = int(index % u32(columns));
    if (pixel >= batch * height * width) return;
    float sum = naive_dot(x + u64(pixel) * u32(channels), weight + u64(n) * u32(channels), channels) + bias[n];
    for (int i = 0; i < 3; i++) {
        const Coarse &tap = taps[i];
        const Sample vertical = sample(pixel / width % height, tap.height, height), horizontal = sample(pixel % width, tap.width, width);
        const int top = (pixel / (width * height) * tap.height + vertical.low) * tap.width, bottom = top + vertical.step * tap.width;
        const int left = horizontal.low, right = left + horizontal.step;
        auto at = [&](int p) { return widen(static_cast<const E *>(tap.projected)[u64(p) * u32(columns) + u32(n)]); };
        const float low = fmaf(at(bottom + left) - at(top + left), vertical.weight, at(top + left));
        const float high = fmaf(at(bottom + right) - at(top + right), vertical.weight, at(top + right));
        sum += fmaf(high - low, horizontal.weight, low);
    }
    out[index] = narrow<E>(sum);
}

}  // namespace segface::mlp_fusion
