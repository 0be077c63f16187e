// out[r] = (x[r] − mean) / √(variance + eps) · weight + bias                (`segface_kernels::layer_norm::LayerNormSpec`)
//
// x, out [rows, CHANNELS], CHANNELS a multiple of 8; x may be out. Bytes 2·rows·CHANNELS elements; nothing else counts.
// 8, 16 or 32 lanes hold a row in registers, so it is read once and the variance is that of the differences to the mean.
#pragma once
#include "cuda/memory.cuh"

namespace segface::layer_norm {

constexpr int WARPS = 4;

template <class E, int CHANNELS>
struct Config {
    static constexpr int CHUNKS = CHANNELS / CHUNK<E>;
    static constexpr int LANES = CHUNKS <= 8 ? 8 : CHUNKS <= 16 ? 16 : 32;
    static constexpr int PER_LANE = ceil_divide(CHUNKS, LANES), ROWS = WARPS * 32 / LANES, THREADS = WARPS * 32;
    static_assert(CHANNELS % 8 == 0 && PER_LANE <= 16, "a row is whole chunks and fits registers");
};

// Grid (rows / Config::ROWS).
template <class E, int CHANNELS>
__device__ __forceinline__ void forward(const E *x, const float *weight, const float *bias, float eps, E *out, int rows) {
    using C = Config<E, CHANNELS>;
    const int lane = int(threadIdx.x) % C::LANES, row = int(blockIdx.x) * C::ROWS + int(threadIdx.x) / C::LANES;
    const bool there = row < rows;
    float values[C::PER_LANE][CHUNK<E>];
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++) {
        const int c = lane + i * C::LANES;
        unpack<E>(there && c < C::CHUNKS ? load_chunk(x + u64(row) * CHANNELS + c * CHUNK<E>) : zero_chunk(), values[i]);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) sum += values[i][v];
    }
#pragma unroll
    for (int d = 1; d < C::LANES; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    const float mean = sum / float(CHANNELS);
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++)
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) {
            const float d = lane + i * C::LANES < C::CHUNKS ? values[i][v] - mean : 0.0f;
            squares = fmaf(d, d, squares);
        }
#pragma unroll
    for (int d = 1; d < C::LANES; d *= 2) squares += __shfl_xor_sync(~0u, squares, d);
    const float scale = rsqrtf(squares / float(CHANNELS) + eps);
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++) {
        const int c = lane + i * C::LANES;
        if (!there || c >= C::CHUNKS) continue;
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v += 4) {
            const Chunk w = load_chunk(weight + c * CHUNK<E> + v), b = load_chunk(bias + c * CHUNK<E> + v);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                values[i][v + j] = (values[i][v + j] - mean) * scale * __uint_as_float(w.word[j]) + __uint_as_float(b.word[j]);
            }
        }
        store_chunk(out + u64(row) * CHANNELS + c * CHUNK<E>, pack<E>(values[i]));
    }
}

}  // namespace segface::layer_norm
