// Gradients of the depthwise convolution                               (`segface_kernels::depthwise::backward`).
//
//     d_x[b, iy, ix, c] (+)= Σ_{i, j} d_out[b, (iy + p − i)/s, (ix + p − j)/s, c] · weight[i·K + j, c], where the divisions leave no rest
//     d_weight[i·K + j, c] += Σ_{b, y, x} d_out[b, y, x, c] · x[b, y·s + i − p, x·s + j − p, c]
//
// Maps [batch, height, width, C], p = K / 2. FLOPs of each as forward.
#pragma once
#include "cuda/backward.cuh"

namespace segface::depthwise {

constexpr int BACKWARD_THREADS = 256;

struct Sizes {
    int height, width, out_height, out_width;
};

// Grid (width · C / WIDTH / BACKWARD_THREADS, height, batch).
template <class E, int C, int KERNEL, int STRIDE, int WIDTH>
__device__ __forceinline__ void input(const E *d_out, const float *weight, const E *residual, E *d_x, Sizes map) {
    const int index = int(blockIdx.x) * BACKWARD_THREADS + int(threadIdx.x), x = index / (C / WIDTH);
    const int channel = index % (C / WIDTH) * WIDTH, y = int(blockIdx.y), image = int(blockIdx.z);
    if (x >= map.width) return;
    float sum[WIDTH] = {};
#pragma unroll
    for (int i = 0; i < KERNEL; i++) {
        const int above = y + KERNEL / 2 - i, row = above / STRIDE;
        if (above < 0 || above % STRIDE != 0 || row >= map.out_height) continue;
#pragma unroll
        for (int j = 0; j < KERNEL; j++) {
            const int before = x + KERNEL / 2 - j, column = before / STRIDE;
            if (before < 0 || before % STRIDE != 0 || column >= map.out_width) continue;
            float d[WIDTH], tap[WIDTH];
            load_vector<E>(d, d_out + (u64(image * map.out_height + row) * u32(map.out_width) + u32(column)) * C + channel);
            load_factors(tap, weight + (i * KERNEL + j) * C + channel);
#pragma unroll
            for (int v = 0; v < WIDTH; v++) sum[v] = fmaf(d[v], tap[v], sum[v]);
        }
    }
    store_gradient<E>(d_x, residual, (u64(image * map.height + y) * u32(map.width) + u32(x)) * C + channel, sum);
}

// A line of taps of a pixel of the result, counted over all images: Σ d_out · x for the taps (i, 0) .. (i, K − 1).
template <class E, int C, int KERNEL, int STRIDE, int WIDTH>
struct Taps {
    static constexpr int Q = KERNEL;
    const E *x, *d_out;
    Sizes map;
    int i;
    __device__ __forceinline__ void add(float (&sums)[KERNEL][WIDTH], u64 row, int channel) const {
        const u32 line = u32(row) / u32(map.out_width), out_x = u32(row) - line * u32(map.out_width);
        const u32 image = line / u32(map.out_height), out_y = line - image * u32(map.out_height);
        const int y = int(out_y) * STRIDE + i - KERNEL / 2, left = int(out_x) * STRIDE - KERNEL / 2;
        if (u32(y) >= u32(map.height)) return;
        float d[WIDTH];
        load_vector<E>(d, d_out + row * C + channel);
        const E *from = x + u64(image * u32(map.height) + u32(y)) * u32(map.width) * C + channel;
#pragma unroll
        for (int j = 0; j < KERNEL; j++) {
            if (u32(left + j) >= u32(map.width)) continue;
            float values[WIDTH];
            load_vector<E>(values, from + u64(left + j) * C);
#pragma unroll
            for (int v = 0; v < WIDTH; v++) sums[j][v] = fmaf(d[v], values[v], sums[j][v]);
        }
    }
};

// One line of taps a block, blockIdx.z of them: partial[line][part][K][C]. Block and the rest of the grid as `sum_rows`.
template <class E, int C, int KERNEL, int STRIDE, int WIDTH, int LANES, int ROWS>
__device__ __forceinline__ void weight(const E *x, const E *d_out, float *partial, Sizes map, int rows, int part_rows) {
    const int thread = int(threadIdx.x), lane = thread % LANES, first = thread / LANES, part = int(blockIdx.y);
    const int channel = (int(blockIdx.x) * LANES + lane) * WIDTH, end = min(rows, (part + 1) * part_rows);
    const Taps<E, C, KERNEL, STRIDE, WIDTH> taps{x, d_out, map, int(blockIdx.z)};
    float sums[KERNEL][WIDTH] = {};
    for (int row = part * part_rows + first; row < end; row += ROWS) taps.add(sums, u64(row), channel);
    leave_block_sums<LANES, ROWS, C>(sums, partial + (u64(blockIdx.z) * gridDim.y + u32(part)) * (KERNEL * C));
}

}  // namespace segface::depthwise
