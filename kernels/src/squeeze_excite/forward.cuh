// gate[b] = gate_act(W2 · act(W1 · sums[b] / pixels + b1) + b2)     (`segface_kernels::squeeze_excite::SqueezeExciteSpec`)
//
// sums and gate [batch, C], W1 [S, C], b1 [S], W2 [C, S], b2 [C], all f32 row-major; hidden [batch, S] is working memory. FLOPs
// 4·batch·C·S. The weights (megabytes) are read once each for the whole batch, so one multiprocessor would take far too long:
// the grid, of any size, shares the rows of W1, waits for itself, and shares the rows of W2. Launch it cooperatively.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/grid.cuh"

namespace segface::squeeze_excite {

constexpr int THREADS = 256;
// Lanes that share a row of W2: its S numbers are 16 bytes for each, a few times over.
constexpr int EXCITE_LANES = 8;

// Σ_c a[c]·b[c] over this lane's chunks of four, LANES lanes apart; four sums hide the latency of the additions.
template <int LANES, bool FROM_OTHERS>
__device__ __forceinline__ float dot(const float *weight, const float *x, int n, int lane) {
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 4
    for (int c = lane * 4; c < n; c += LANES * 4) {
        float w[4], v[4];
        load_floats(w, weight + c);
        if constexpr (FROM_OTHERS) load_floats_from_others(v, x + c);
        else load_floats(v, x + c);
#pragma unroll
        for (int i = 0; i < 4; i++) part[i] = fmaf(w[i], v[i], part[i]);
    }
    float sum = (part[0] + part[1]) + (part[2] + part[3]);
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return sum;
}

// C and S are multiples of 4. `counters` are the two of `GridBarrier`.
template <int C, int S, Act ACT, Act GATE>
__device__ __forceinline__ void forward(const float *__restrict__ sums, const float *__restrict__ weight1,
                                        const float *__restrict__ bias1, const float *__restrict__ weight2,
                                        const float *__restrict__ bias2, float *gate, float *hidden, u32 *counters, int batch,
                                        float pixels) {
    static_assert(C % 4 == 0 && S % 4 == 0, "rows are whole chunks");
    const int thread = int(threadIdx.x), lane = thread & 31;
    const int warps = int(gridDim.x) * (THREADS / 32);
    // A warp per row of W1, which stays in the L1 over the batch.
    for (int row = int(blockIdx.x) * (THREADS / 32) + thread / 32; row < S; row += warps) {
        for (int image = 0; image < batch; image++) {
            const float sum = dot<32, false>(weight1 + row * C, sums + image * C, C, lane);
            if (lane == 0) hidden[image * S + row] = activate<ACT>(sum / pixels + bias1[row]);
        }
    }
    GridBarrier barrier{counters};
    barrier.meet();
    constexpr int ROWS = 32 / EXCITE_LANES;
    for (int first = (int(blockIdx.x) * (THREADS / 32) + thread / 32) * ROWS; first < C; first += warps * ROWS) {
        // Lanes past the last row take it once more: all must meet in the sum.
        const int row = first + lane / EXCITE_LANES, safe = row < C ? row : C - 1;
        for (int image = 0; image < batch; image++) {
            const float sum = dot<EXCITE_LANES, true>(weight2 + safe * S, hidden + image * S, S, lane % EXCITE_LANES);
            if (row < C && lane % EXCITE_LANES == 0) gate[image * C + row] = activate<GATE>(sum + bias2[row]);
        }
    }
    barrier.leave();
}

}  // namespace segface::squeeze_excite
