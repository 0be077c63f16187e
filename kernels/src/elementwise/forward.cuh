// out[row, c] = op(x[row, c])                                (`segface_kernels::elementwise::{ElementwiseSpec, ConvertSpec}`)
//
// x and out [rows, C] of E, which may be the same memory: a thread reads its numbers, then writes them. One pass over memory: a
// thread takes 16 bytes (WIDTH numbers; one where C is no multiple of that), and there are as many threads as that needs.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/vector.cuh"

namespace segface::elementwise {

constexpr int THREADS = 256;

// Each operator changes the numbers at `column` .. of `row`.
template <Act ACT>
struct Activation {
    template <int WIDTH>
    __device__ __forceinline__ void apply(float (&values)[WIDTH], int, int) const {
#pragma unroll
        for (int v = 0; v < WIDTH; v++) values[v] = activate<ACT>(values[v]);
    }
};

// x + other, whose rows are repeated.
template <class E, int C>
struct Add {
    const E *other;
    int other_rows;
    template <int WIDTH>
    __device__ __forceinline__ void apply(float (&values)[WIDTH], int row, int column) const {
        float addend[WIDTH];
        load_vector<E>(addend, other + u64(row % other_rows) * C + column);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) values[v] += addend[v];
    }
};

// x · factor[row / rows_per_factor, c]: a gate per image, or with all rows in one, a scale per channel.
template <int C>
struct Scale {
    const float *factors;
    int rows_per_factor;
    template <int WIDTH>
    __device__ __forceinline__ void apply(float (&values)[WIDTH], int row, int column) const {
        float factor[WIDTH];
        load_factors(factor, factors + u64(row / rows_per_factor) * C + column);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) values[v] *= factor[v];
    }
};

// (x − mean) / √(variance + ε) · γ + β with stored statistics.
struct BatchNorm {
    const float *weight, *bias, *mean, *variance;
    float eps;
    template <int WIDTH>
    __device__ __forceinline__ void apply(float (&values)[WIDTH], int, int column) const {
        float gamma[WIDTH], beta[WIDTH], centre[WIDTH], spread[WIDTH];
        load_factors(gamma, weight + column);
        load_factors(beta, bias + column);
        load_factors(centre, mean + column);
        load_factors(spread, variance + column);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) {
            values[v] = (values[v] - centre[v]) * (rsqrtf(spread[v] + eps) * gamma[v]) + beta[v];
        }
    }
};

// Grid (rows · C / WIDTH / THREADS).
template <class E, int C, int WIDTH, class Op>
__device__ __forceinline__ void forward(const E *x, E *out, int rows, const Op &op) {
    static_assert(C % WIDTH == 0, "whole vectors");
    const u32 index = blockIdx.x * THREADS + threadIdx.x, row = index / (C / WIDTH), column = index % (C / WIDTH) * WIDTH;
    if (row >= u32(rows)) return;
    const u64 at = u64(row) * C + column;
    float values[WIDTH];
    load_vector<E>(values, x + at);
    op.apply(values, int(row), int(column));
    store_vector<E>(out + at, values);
}

// out[i] = x[i] in another type, rounded to nearest even. Eight numbers a thread; grid (length / 8 / THREADS).
template <class From, class To>
__device__ __forceinline__ void convert(const From *__restrict__ x, To *__restrict__ out, u32 length) {
    const u32 first = (blockIdx.x * THREADS + threadIdx.x) * 8;
    if (first + 8 <= length) {
        float values[8];
#pragma unroll
        for (int i = 0; i < 8; i += CHUNK<From>) {
            float part[CHUNK<From>];
            unpack<From>(load_chunk(x + first + i), part);
#pragma unroll
            for (int v = 0; v < CHUNK<From>; v++) values[i + v] = part[v];
        }
#pragma unroll
        for (int i = 0; i < 8; i += CHUNK<To>) {
            float part[CHUNK<To>];
#pragma unroll
            for (int v = 0; v < CHUNK<To>; v++) part[v] = values[i + v];
            store_chunk(out + first + i, pack<To>(part));
        }
    } else {
        for (u32 i = first; i < length; i++) out[i] = narrow<To>(widen(x[i]));
    }
}

}  // namespace segface::elementwise
