// Gradients of the elementwise operators                            (`segface_kernels::elementwise::backward`), and what a training
// graph has besides them: stochastic depth, gradients of parameters, zeros.
//
// One pass over memory each, WIDTH numbers a thread; sums over rows are `cuda/backward.cuh`'s.
#pragma once
#include "cuda/backward.cuh"

namespace segface::elementwise {

constexpr int BACKWARD_THREADS = 256;

// The first number of this thread's vector, and whether there is one.
template <int WIDTH>
__device__ __forceinline__ bool my_vector(u64 length, u64 &at) {
    at = (u64(blockIdx.x) * BACKWARD_THREADS + threadIdx.x) * WIDTH;
    return at < length;
}

// d_x (+)= d_out · act′(x). Grid (length / WIDTH / BACKWARD_THREADS).
template <class E, Act ACT, int WIDTH>
__device__ __forceinline__ void act_backward(const E *x, const E *d_out, const E *residual, E *d_x, u64 length) {
    u64 at;
    if (!my_vector<WIDTH>(length, at)) return;
    float values[WIDTH], d[WIDTH];
    load_vector<E>(values, x + at);
    load_vector<E>(d, d_out + at);
#pragma unroll
    for (int v = 0; v < WIDTH; v++) d[v] *= derivative<ACT>(values[v]);
    store_gradient<E>(d_x, residual, at, d);
}

// d_other[i] (+)= Σ_r d_out[r · length + i]: an operand that was repeated. Grid (length / WIDTH / BACKWARD_THREADS).
template <class E, int WIDTH>
__device__ __forceinline__ void sum_repeats(const E *d_out, const E *residual, E *d_other, u64 length, int repeats) {
    u64 at;
    if (!my_vector<WIDTH>(length, at)) return;
    float sum[WIDTH] = {};
    for (int r = 0; r < repeats; r++) {
        float d[WIDTH];
        load_vector<E>(d, d_out + u64(r) * length + at);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sum[v] += d[v];
    }
    store_gradient<E>(d_other, residual, at, sum);
}

// Σ d_out · x: the gradient of a factor.
template <class E, int C, int WIDTH>
struct Products {
    static constexpr int Q = 1;
    const E *x, *d_out;
    __device__ __forceinline__ void add(float (&sums)[1][WIDTH], u64 row, int channel) const {
        float values[WIDTH], d[WIDTH];
        load_vector<E>(values, x + row * C + channel);
        load_vector<E>(d, d_out + row * C + channel);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sums[0][v] = fmaf(values[v], d[v], sums[0][v]);
    }
};

// Σ d_out: the gradient of a bias.
template <class E, int C, int WIDTH>
struct Columns {
    static constexpr int Q = 1;
    const E *d_out;
    __device__ __forceinline__ void add(float (&sums)[1][WIDTH], u64 row, int channel) const {
        float d[WIDTH];
        load_vector<E>(d, d_out + row * C + channel);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sums[0][v] += d[v];
    }
};

// gate[g, c] = (residual +) the sum of group g's parts. Grid (C / PARTS_THREADS, groups).
__device__ __forceinline__ void finish_gate(const float *partial, const float *residual, float *d_gate, int parts, int length) {
    const int i = int(blockIdx.x) * PARTS_THREADS + int(threadIdx.x), group = int(blockIdx.y);
    if (i >= length) return;
    const float sum = float(sum_parts(partial + u64(group) * u32(parts) * u32(length) + i, parts, u64(length)));
    const u64 at = u64(group) * u32(length) + i;
    d_gate[at] = residual != nullptr ? residual[at] + sum : sum;
}

// sum[i] += d[i]: a parameter that is an operand itself.
template <class E>
__device__ __forceinline__ void add_to_parameter(const E *d, float *sum, u64 length) {
    u64 at;
    if (my_vector<1>(length, at)) sum[at] += widen(d[at]);
}

template <class E>
__device__ __forceinline__ void clear(E *out, u64 length) {
    u64 at;
    if (my_vector<1>(length, at)) out[at] = narrow<E>(0.0f);
}

// Nothing to do where both are the same memory.
template <class E>
__device__ __forceinline__ void copy(const E *x, E *out, u64 length) {
    u64 at;
    if (x != out && my_vector<1>(length, at)) out[at] = x[at];
}

// Philox 4×32-10's first word (`segface_kernels::stochastic_depth::philox`).
__device__ __forceinline__ u32 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u32 high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const u32 high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c0;
}

// out[b] = x[b] · factor(b), its own adjoint (`StochasticDepthSpec`). Grid (length / WIDTH / BACKWARD_THREADS, batch), `length` numbers
// an image.
template <class E, int WIDTH>
__device__ __forceinline__ void stochastic_depth(const E *x, E *out, u64 length, float probability, u32 place, const StepData *step) {
    u64 at;
    if (!my_vector<WIDTH>(length, at)) return;
    const u32 image = blockIdx.y;
    const u32 word = philox(image, place, step->micro_batch, u32(step->step), u32(step->seed), u32(step->seed >> 32) ^ 0x53454744u);
    const float unit = float(word >> 8) * (1.0f / 16777216.0f), factor = unit < probability ? 0.0f : 1.0f / (1.0f - probability);
    at += u64(image) * length;
    float values[WIDTH];
    load_vector<E>(values, x + at);
#pragma unroll
    for (int v = 0; v < WIDTH; v++) values[v] *= factor;
    store_vector<E>(out + at, values);
}

}  // namespace segface::elementwise
