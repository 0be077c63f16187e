// What backward kernels share: derivatives, gradients that start from another reader's share, and sums over rows in an order that
// depends on nothing but the shape.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/vector.cuh"

namespace segface {

// What is different from one micro-batch to the next: `segface::train::cuda` writes it before each.
struct StepData {
    u64 seed, step;
    u32 micro_batch;
    // Factor on all gradients.
    float scale;
};

// 1/(1 + e^−x), divided as IEEE says: training goes through many norms of few values, each of which makes an error larger.
__device__ __forceinline__ float exact_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// act(x), likewise.
template <Act ACT>
__device__ __forceinline__ float exact_activate(float x) {
    if constexpr (ACT == Act::Silu) return x / (1.0f + expf(-x));
    else if constexpr (ACT == Act::Sigmoid) return exact_sigmoid(x);
    else return activate<ACT>(x);
}

// act′(x); at kinks as libtorch has it (`segface_kernels::Act::derivative`).
template <Act ACT>
__device__ __forceinline__ float derivative(float x) {
    if constexpr (ACT == Act::Relu) return x > 0.0f ? 1.0f : 0.0f;
    else if constexpr (ACT == Act::Gelu) return fmaf(x * 0.39894228f, expf(-0.5f * x * x), normcdff(x));
    else if constexpr (ACT == Act::Silu) {
        const float s = exact_sigmoid(x);
        return s * fmaf(x, 1.0f - s, 1.0f);
    } else if constexpr (ACT == Act::HardSwish) return x <= -3.0f ? 0.0f : x < 3.0f ? fmaf(x, 1.0f / 3.0f, 0.5f) : 1.0f;
    else if constexpr (ACT == Act::HardSigmoid) return x > -3.0f && x < 3.0f ? 1.0f / 6.0f : 0.0f;
    else if constexpr (ACT == Act::Sigmoid) {
        const float s = exact_sigmoid(x);
        return s * (1.0f - s);
    } else return 1.0f;
}

// Stores a gradient, added to what another reader left at `residual` (which may be `out`, or null for nothing).
template <class E, int WIDTH>
__device__ __forceinline__ void store_gradient(E *out, const E *residual, u64 at, float (&values)[WIDTH]) {
    if (residual != nullptr) {
        float share[WIDTH];
        load_vector<E>(share, residual + at);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) values[v] += share[v];
    }
    store_vector<E>(out + at, values);
}

// Sums over the rows of each group of `rows` rows, per channel, of F::Q quantities, first half: a block adds up `part_rows` rows of
// LANES · WIDTH channels and leaves partial[group][part][Q][C]. LANES × ROWS threads, lanes the faster; grid (C / WIDTH / LANES,
// parts, groups); `row_sums_bytes` of shared memory.
//
// `of.add(sums, row, channel)` adds what a row, counted over all groups, has in WIDTH channels.
constexpr int row_sums_bytes(int threads, int width, int quantities) { return threads * width * quantities * 4; }

template <int LANES, int ROWS, int C, int WIDTH, int Q>
__device__ __forceinline__ void leave_block_sums(const float (&sums)[Q][WIDTH], float *partial) {
    constexpr int GROUP = LANES * WIDTH, THREADS = LANES * ROWS;
    float *buffer = reinterpret_cast<float *>(shared_memory);
    const int thread = int(threadIdx.x), lane = thread % LANES, y = thread / LANES;
    __syncthreads();
#pragma unroll
    for (int q = 0; q < Q; q++)
#pragma unroll
        for (int v = 0; v < WIDTH; v++) buffer[(y * Q + q) * GROUP + lane * WIDTH + v] = sums[q][v];
    __syncthreads();
    for (int i = thread; i < Q * GROUP; i += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) sum += buffer[r * Q * GROUP + i];
        partial[(i / GROUP) * C + int(blockIdx.x) * GROUP + i % GROUP] = sum;
    }
}

template <int LANES, int ROWS, int C, int WIDTH, class F>
__device__ __forceinline__ void sum_rows(const F &of, float *partial, int rows, int part_rows) {
    const int thread = int(threadIdx.x), lane = thread % LANES, y = thread / LANES;
    const int channel = (int(blockIdx.x) * LANES + lane) * WIDTH, part = int(blockIdx.y), group = int(blockIdx.z);
    const int end = min(rows, (part + 1) * part_rows);
    float sums[F::Q][WIDTH] = {};
#pragma unroll 2
    for (int row = part * part_rows + y; row < end; row += ROWS) of.add(sums, u64(group) * u32(rows) + u32(row), channel);
    leave_block_sums<LANES, ROWS, C>(sums, partial + (u64(group) * gridDim.y + u32(part)) * (F::Q * C));
}

// The second half: what `parts` blocks left at `partial`, `stride` apart, in their order. In f64: parts are few, and a long sum of
// f32 would lose what was won by cutting it.
__device__ __forceinline__ double sum_parts(const float *partial, int parts, u64 stride) {
    double sum = 0.0;
#pragma unroll 4
    for (int part = 0; part < parts; part++) sum += double(partial[u64(part) * stride]);
    return sum;
}

constexpr int PARTS_THREADS = 256;

// Adds the sums of `parts` parts of `length` numbers to `target` (or writes them: ADD is false). Groups follow one another in both.
// Grid (length / PARTS_THREADS, groups).
template <bool ADD>
__device__ __forceinline__ void add_parts(const float *partial, float *target, int parts, int length) {
    const int i = int(blockIdx.x) * PARTS_THREADS + int(threadIdx.x), group = int(blockIdx.y);
    if (i >= length) return;
    const float sum = float(sum_parts(partial + u64(group) * u32(parts) * u32(length) + i, parts, u64(length)));
    float *at = target + u64(group) * u32(length) + i;
    *at = ADD ? *at + sum : sum;
}

}  // namespace segface
