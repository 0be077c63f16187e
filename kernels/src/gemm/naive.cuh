// The first rung: out[rows, N] = epilogue(x[rows, K] · weightᵀ) with one thread per output, straight from memory.
//
// The same operands as `gemm/forward.cuh`: x and out row-major, weight packed, the epilogue's without a norm (it needs whole
// rows). Grid (rows / 8, N / 32), blocks of 32 × 8 threads in one dimension. Each thread reads a row of x, which its warp
// shares, and a row of the weight: 2·rows·N·K loads of numbers for as many operations. It says what is right, and how much
// the other rungs gain.
#pragma once
#include "cuda/epilogue.cuh"

namespace segface::gemm {

// The number [n][k] of a packed weight with `columns` columns, as f32: `segface_kernels::cuda::pack` backwards.
template <class P>
__device__ __forceinline__ float packed_number(const u8 *weight, int columns, int n, int k) {
    using E = typename P::Element;
    const int block = k / PACK_K<P> * (columns / PACK_COLUMNS) + n / PACK_COLUMNS, g = n % PACK_COLUMNS, at = k % PACK_K<P>;
    int number;
    if constexpr (sizeof(E) == 2) number = (g * 4 + at % 8 / 2) * 8 + at / 8 * 2 + at % 2;
    else if constexpr (Mma<P>::K == 8) number = (g * 4 + at % 4) * 4 + at / 4;
    else number = (at / 4 * PACK_COLUMNS + g) * 4 + at % 4;
    return widen(reinterpret_cast<const E *>(weight + u64(block) * PACK_BYTES)[number]);
}

// What a product makes of a number of x.
template <class P>
__device__ __forceinline__ float factor(typename P::Element x) {
    if constexpr (sizeof(x) == 4 && Mma<P>::K == 8) return __uint_as_float(round_tf32(__float_as_uint(x)));
    else return widen(x);
}

// From one sum to one stored number.
template <class E, class Epi>
__device__ __forceinline__ void finish_number(float value, const Epi &epilogue, E *out, int row, int column, int columns) {
    static_assert(!Epi::NORM, "a norm needs whole rows");
    const u64 at = u64(row) * u32(columns) + u32(column);
    if constexpr (Epi::BIAS) value += epilogue.bias[column];
    value = activate<Epi::ACT>(value);
    if constexpr (Epi::SCALE) value *= epilogue.scale[column];
    if constexpr (Epi::RESIDUAL) value += widen(static_cast<const E *>(epilogue.residual)[at]);
    out[at] = narrow<E>(activate<Epi::AFTER>(value));
}

constexpr int NAIVE_ROWS = 8, NAIVE_COLUMNS = 32, NAIVE_THREADS = NAIVE_ROWS * NAIVE_COLUMNS;

template <class P, int N, int K, class Epi>
__device__ __forceinline__ void naive(const typename P::Element *x, const u8 *weight, const Epi &epilogue,
                                      typename P::Element *out, int rows) {
    const int row = int(blockIdx.x) * NAIVE_ROWS + int(threadIdx.x) / NAIVE_COLUMNS;
    const int column = int(blockIdx.y) * NAIVE_COLUMNS + int(threadIdx.x) % NAIVE_COLUMNS;
    if (row >= rows || column >= N) return;
    float sum = 0;
    for (int k = 0; k < K; k++) sum = fmaf(factor<P>(x[u64(row) * K + k]), packed_number<P>(weight, N, column, k), sum);
    finish_number(sum, epilogue, out, row, column, N);
}

}  // namespace segface::gemm
