// Gradients of the layer norm                                     (`segface_kernels::layer_norm::backward`).
//
//     x̂ = (x − mean)/√(variance + ε),  g = d_out·γ
//     d_x (+)= (g − mean(g) − x̂·mean(g·x̂))/√(variance + ε),  d_γ += Σ_rows d_out·x̂,  d_β += Σ_rows d_out
//
// `rows_backward` holds a row of x and of d_out in the registers of 8, 16 or 32 lanes, as the forward kernel does, and leaves
// mean and scale of each row for the sums over rows (`Sums`), which read both maps once more.
#pragma once
#include "cuda/backward.cuh"
#include "layer_norm/forward.cuh"

namespace segface::layer_norm {

// Grid (rows / Config::ROWS); statistics [rows][2].
template <class E, int CHANNELS>
__device__ __forceinline__ void rows_backward(const E *x, const float *weight, const E *d_out, float eps, const E *residual, E *d_x,
                                              float *statistics, int rows) {
    using C = Config<E, CHANNELS>;
    const int lane = int(threadIdx.x) % C::LANES, row = int(blockIdx.x) * C::ROWS + int(threadIdx.x) / C::LANES;
    const bool there = row < rows;
    const u64 begin = u64(there ? row : 0) * CHANNELS;
    float values[C::PER_LANE][CHUNK<E>], slopes[C::PER_LANE][CHUNK<E>];
    float sum = 0, squares = 0, total = 0, along = 0;
    const auto reduce = [](float v) {
#pragma unroll
        for (int d = 1; d < C::LANES; d *= 2) v += __shfl_xor_sync(~0u, v, d);
        return v;
    };
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++) {
        const int c = lane + i * C::LANES;
        const bool inside = there && c < C::CHUNKS;
        unpack<E>(inside ? load_chunk(x + begin + c * CHUNK<E>) : zero_chunk(), values[i]);
        unpack<E>(inside ? load_chunk(d_out + begin + c * CHUNK<E>) : zero_chunk(), slopes[i]);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) sum += values[i][v];
    }
    const float mean = reduce(sum) / float(CHANNELS);
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++)
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) {
            values[i][v] = lane + i * C::LANES < C::CHUNKS ? values[i][v] - mean : 0.0f;
            squares = fmaf(values[i][v], values[i][v], squares);
        }
    const float scale = rsqrtf(reduce(squares) / float(CHANNELS) + eps);
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++) {
        const int c = lane + i * C::LANES;
        if (c >= C::CHUNKS) continue;
        float gamma[CHUNK<E>];
        load_floats(gamma, weight + c * CHUNK<E>);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) {
            values[i][v] *= scale;
            slopes[i][v] *= gamma[v];
            total += slopes[i][v];
            along = fmaf(slopes[i][v], values[i][v], along);
        }
    }
    total = reduce(total) / float(CHANNELS);
    along = reduce(along) / float(CHANNELS);
    if (!there) return;
#pragma unroll
    for (int i = 0; i < C::PER_LANE; i++) {
        const int c = lane + i * C::LANES;
        if (c >= C::CHUNKS) continue;
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) slopes[i][v] = fmaf(-values[i][v], along, slopes[i][v] - total) * scale;
        store_gradient<E>(d_x, residual, begin + c * CHUNK<E>, slopes[i]);
    }
    if (lane == 0) {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = scale;
    }
}

// Σ d_out·x̂ and Σ d_out.
template <class E, int C, int WIDTH>
struct Sums {
    static constexpr int Q = 2;
    const E *x, *d_out;
    const float *statistics;
    __device__ __forceinline__ void add(float (&sums)[2][WIDTH], u64 row, int channel) const {
        float values[WIDTH], d[WIDTH];
        load_vector<E>(values, x + row * C + channel);
        load_vector<E>(d, d_out + row * C + channel);
        const float mean = statistics[2 * row], scale = statistics[2 * row + 1];
#pragma unroll
        for (int v = 0; v < WIDTH; v++) {
            sums[0][v] = fmaf(d[v], (values[v] - mean) * scale, sums[0][v]);
            sums[1][v] += d[v];
        }
    }
};

// Grid (C / PARTS_THREADS).
template <int C>
__device__ __forceinline__ void finish_sums(const float *partial, float *d_weight, float *d_bias, int parts) {
    const int c = int(blockIdx.x) * PARTS_THREADS + int(threadIdx.x);
    if (c >= C) return;
    if (d_weight != nullptr) d_weight[c] += float(sum_parts(partial + c, parts, 2 * C));
    if (d_bias != nullptr) d_bias[c] += float(sum_parts(partial + C + c, parts, 2 * C));
}

}  // namespace segface::layer_norm
