// out[b, y, x, c] = act(bias[c] + Σ_{i, j} in[b, y·s + i − p, x·s + j − p, c] · weight[i·k + j, c]), p = (k − 1) / 2
// (`segface_kernels::depthwise::DepthwiseSpec`); with POOL also sums[b, c] = Σ_{y, x} out[b, y, x, c] before rounding.
//
// in [batch, height, width, C], out [batch, out_height, out_width, C] of E; weight [k·k, C], bias and sums f32. FLOPs
// 2·k²·batch·out_height·out_width·C: too few per byte for a tensor core, so what counts is how often a number is loaded.
//
// A thread makes RUN neighbours along x of one 16-byte chunk of channels. For each line of taps it loads k weights and
// (RUN − 1)·s + k inputs once, and every input meets every output it belongs to in registers. Lanes lie along the channels,
// then along the runs: a warp's accesses are whole sectors. What several threads load comes from the L1; nothing is staged.
// Grid (runs of an image / PIXELS, groups of LANES chunks, batch).
#pragma once
#include "cuda/activation.cuh"
#include "cuda/channel_sums.cuh"

namespace segface::depthwise {

// C channels; LANES chunks (a divisor of all chunks) × PIXELS runs in a block.
template <class E_, int C_, int KERNEL_, int STRIDE_, int RUN_, int LANES_, int PIXELS_>
struct Shape {
    using E = E_;
    static constexpr int C = C_, KERNEL = KERNEL_, STRIDE = STRIDE_, RUN = RUN_, LANES = LANES_, PIXELS = PIXELS_;
    static constexpr int THREADS = LANES * PIXELS, PADDING = (KERNEL - 1) / 2, INPUTS = (RUN - 1) * STRIDE + KERNEL;
    static_assert(C % (LANES * CHUNK<E>) == 0, "groups divide the channels");
};

// Sizes that change with the image.
struct Map {
    int height, width, out_height, out_width;
};

// Bytes of dynamic shared memory.
template <class S, bool POOL>
constexpr int bytes() {
    return POOL ? channel_sums_bytes(S::THREADS, CHUNK<typename S::E>) : 0;
}

// A chunk of numbers, or zeros where it is outside.
template <class E>
__device__ __forceinline__ Chunk load_inside(const E *source, bool inside) {
    return inside ? load_chunk(source) : zero_chunk();
}

// partial [batch, blocks of an image, C], counters [batch, groups]: see `sum_channels`. Without POOL, sums, partial and counters are
// not looked at.
template <class S, Act ACT, bool BIAS, bool POOL>
__device__ __forceinline__ void forward(const typename S::E *__restrict__ x, const float *__restrict__ weight,
                                        const float *__restrict__ bias, typename S::E *__restrict__ out, float *sums, float *partial,
                                        u32 *counters, Map map) {
    using E = typename S::E;
    constexpr int V = CHUNK<E>;
    const int lane = int(threadIdx.x) % S::LANES, pixel = int(threadIdx.x) / S::LANES;
    const int channel0 = int(blockIdx.y) * S::LANES * V, channel = channel0 + lane * V, image = int(blockIdx.z);
    const int runs_x = (map.out_width + S::RUN - 1) / S::RUN;
    const int run = int(blockIdx.x) * S::PIXELS + pixel, y = run / runs_x, x0 = (run - y * runs_x) * S::RUN;

    float acc[S::RUN][V];
    {
        float first[V];
#pragma unroll
        for (int v = 0; v < V; v++) first[v] = 0.0f;
        if constexpr (BIAS) load_floats(first, bias + channel);
#pragma unroll
        for (int r = 0; r < S::RUN; r++)
#pragma unroll
            for (int v = 0; v < V; v++) acc[r][v] = first[v];
    }
    const int top = y * S::STRIDE - S::PADDING, left = x0 * S::STRIDE - S::PADDING;
    const bool there = y < map.out_height;
    const E *corner = x + (((long long)image * map.height + top) * map.width + left) * S::C + channel;
    // Lines of large windows stay a loop: unrolled, they would not fit the instruction cache.
#pragma unroll(S::KERNEL > 3 ? 1 : 3)
    for (int i = 0; i < S::KERNEL; i++) {
        const bool line = there && u32(top + i) < u32(map.height);
        const E *row = corner + (long long)i * map.width * S::C;
        Chunk inputs[S::INPUTS];
#pragma unroll
        for (int j = 0; j < S::INPUTS; j++) inputs[j] = load_inside(row + j * S::C, line && u32(left + j) < u32(map.width));
        float taps[S::KERNEL][V];
#pragma unroll
        for (int j = 0; j < S::KERNEL; j++) load_floats(taps[j], weight + (i * S::KERNEL + j) * S::C + channel);
#pragma unroll
        for (int j = 0; j < S::INPUTS; j++) {
            float input[V];
            unpack<E>(inputs[j], input);
#pragma unroll
            for (int r = 0; r < S::RUN; r++) {
                const int tap = j - r * S::STRIDE;
                if (tap >= 0 && tap < S::KERNEL) {
#pragma unroll
                    for (int v = 0; v < V; v++) acc[r][v] = fmaf(input[v], taps[tap][v], acc[r][v]);
                }
            }
        }
    }

    float sum[V];
#pragma unroll
    for (int v = 0; v < V; v++) sum[v] = 0.0f;
    E *target = out + (((long long)image * map.out_height + y) * map.out_width + x0) * S::C + channel;
#pragma unroll
    for (int r = 0; r < S::RUN; r++) {
        if (there && x0 + r < map.out_width) {
#pragma unroll
            for (int v = 0; v < V; v++) {
                acc[r][v] = activate<ACT>(acc[r][v]);
                sum[v] += acc[r][v];
            }
            store_chunk(target + r * S::C, pack<E>(acc[r]));
        }
    }
    if constexpr (POOL) {
        const int blocks = int(gridDim.x);
        sum_channels<S::LANES, S::PIXELS>(sum, channel0, S::C, int(blockIdx.x), blocks, partial + (u64)image * blocks * S::C,
                                          sums + image * S::C, counters + image * int(gridDim.y) + blockIdx.y,
                                          reinterpret_cast<float *>(shared_memory));
    }
}

}  // namespace segface::depthwise
