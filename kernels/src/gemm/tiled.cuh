// The second rung: out[rows, N] = epilogue(x[rows, K] · weightᵀ) with tiles in shared memory and f32 multiply-adds, no tensor core.
//
// The same operands as `gemm/forward.cuh`, the epilogue's without a norm. A block of 256 threads makes 64 × 64 outputs, a thread
// 4 × 4 of them from registers: per step of k each number that it loads from shared memory meets four others, and each number of
// memory is loaded once per block instead of once per output. Loads are not under way while the block multiplies: that, the
// tensor cores and 16-byte accesses are what `forward.cuh` adds.
#pragma once
#include "gemm/naive.cuh"

namespace segface::gemm {

constexpr int TILED_ROWS = 64, TILED_COLUMNS = 64, TILED_THREADS = 256;

// Grid (rows / 64, N / 64). No dynamic shared memory.
template <class P, int N, int K, class Epi>
__device__ __forceinline__ void tiled(const typename P::Element *x, const u8 *weight, const Epi &epilogue,
                                      typename P::Element *out, int rows) {
    // k × rows and k × columns, four more in a line so that the stores below fall into different banks.
    constexpr int STEP = 16, LINE = TILED_ROWS + 4;
    __shared__ __align__(16) float left[STEP][LINE], right[STEP][LINE];
    const int thread = int(threadIdx.x), row0 = int(blockIdx.x) * TILED_ROWS, column0 = int(blockIdx.y) * TILED_COLUMNS;
    const int my_row = thread / 16 * 4, my_column = thread % 16 * 4;
    float sums[4][4] = {};
    for (int k0 = 0; k0 < K; k0 += STEP) {
#pragma unroll
        for (int i = thread; i < TILED_ROWS * STEP; i += TILED_THREADS) {
            const int line = i / STEP, k = i % STEP;
            const bool inside = k0 + k < K;
            left[k][line] = inside && row0 + line < rows ? factor<P>(x[u64(row0 + line) * K + k0 + k]) : 0.0f;
            right[k][line] = inside && column0 + line < N ? packed_number<P>(weight, N, column0 + line, k0 + k) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < STEP; k++) {
            float a[4], b[4];
            load_floats(a, &left[k][my_row]);
            load_floats(b, &right[k][my_column]);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int row = row0 + my_row + i, column = column0 + my_column + j;
            if (row < rows && column < N) finish_number(sums[i][j], epilogue, out, row, column, N);
        }
}

}  // namespace segface::gemm
