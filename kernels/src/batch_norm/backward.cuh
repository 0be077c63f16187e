// Batch norm with the statistics of its batch, forward and backward      (`segface_kernels::batch_norm::{cpu, backward}`).
//
//     out = act((x − mean)·scale·γ + β), mean and scale = 1/√(variance + ε) of each channel over all rows
//     g = d_out·act′(·),  d_β += Σ g,  d_γ += scale·Σ g·(x − mean)
//     d_x (+)= γ·scale·(g − mean(g) − (x − mean)·scale²·mean(g·(x − mean)))
//
// x, out, d_out, d_x [rows, C]. Statistics are moments of parts of the rows, about each part's own mean, merged in order
// (Chan, Golub & LeVeque). Forward reads x three times, of which two come from a cache where a part fits; backward reads x and
// d_out twice.
#pragma once
#include "cuda/backward.cuh"

namespace segface::batch_norm {

// Means of a part's columns and sums of squared differences from them: partial[part][2][C]. Block and grid of `sum_rows`.
template <class E, int C, int WIDTH, int LANES, int ROWS>
__device__ __forceinline__ void moments(const E *x, float *partial, int rows, int part_rows) {
    constexpr int GROUP = LANES * WIDTH;
    const int thread = int(threadIdx.x), lane = thread % LANES, y = thread / LANES;
    const int channel = (int(blockIdx.x) * LANES + lane) * WIDTH, begin = int(blockIdx.y) * part_rows;
    const int end = min(rows, begin + part_rows);
    float *mine = partial + u64(blockIdx.y) * (2 * C);
    float sums[1][WIDTH] = {};
#pragma unroll 2
    for (int row = begin + y; row < end; row += ROWS) {
        float values[WIDTH];
        load_vector<E>(values, x + u64(row) * C + channel);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sums[0][v] += values[v];
    }
    leave_block_sums<LANES, ROWS, C>(sums, mine);
    // The block's own sums, visible behind the barrier.
    __threadfence_block();
    __syncthreads();
    const float share = 1.0f / float(end - begin);
    float mean[WIDTH], squares[2][WIDTH] = {};
#pragma unroll
    for (int v = 0; v < WIDTH; v++) mean[v] = mine[channel + v] * share;
#pragma unroll 2
    for (int row = begin + y; row < end; row += ROWS) {
        float values[WIDTH];
        load_vector<E>(values, x + u64(row) * C + channel);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) {
            const float d = values[v] - mean[v];
            squares[0][v] += d;
            squares[1][v] = fmaf(d, d, squares[1][v]);
        }
    }
    // Everybody has read the first sums before they are overwritten by the same threads.
    float *buffer = reinterpret_cast<float *>(shared_memory);
    __syncthreads();
#pragma unroll
    for (int q = 0; q < 2; q++)
#pragma unroll
        for (int v = 0; v < WIDTH; v++) buffer[(y * 2 + q) * GROUP + lane * WIDTH + v] = squares[q][v];
    __syncthreads();
    for (int c = thread; c < GROUP; c += LANES * ROWS) {
        float difference = 0.0f, square = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            difference += buffer[r * 2 * GROUP + c];
            square += buffer[(r * 2 + 1) * GROUP + c];
        }
        // What rounding left of the mean.
        const int at = int(blockIdx.x) * GROUP + c;
        const float rest = difference * share;
        mine[C + at] = fmaxf(square - rest * difference, 0.0f);
        mine[at] = mine[at] * share + rest;
    }
}

// Merges the parts' moments into the batch's; moves the running statistics where there are any. Grid (C / PARTS_THREADS).
template <int C>
__device__ __forceinline__ void merge(const float *partial, float *mean, float *scale, float *running_mean, float *running_variance,
                                      int rows, int part_rows, float eps, float momentum) {
    const int c = int(blockIdx.x) * PARTS_THREADS + int(threadIdx.x);
    if (c >= C) return;
    double centre = 0.0, squares = 0.0;
    for (int begin = 0, part = 0; begin < rows; begin += part_rows, part++) {
        const double own = double(min(part_rows, rows - begin)), before = double(begin), total = own + before;
        const double distance = double(partial[u64(part) * (2 * C) + c]) - centre;
        centre += distance * own / total;
        squares += double(partial[u64(part) * (2 * C) + C + c]) + distance * distance * own * before / total;
    }
    const double n = double(rows);
    if (running_mean != nullptr) {
        const double share = double(momentum);
        running_mean[c] = float(share * centre + (1.0 - share) * double(running_mean[c]));
        running_variance[c] = float(share * squares / (n - 1.0) + (1.0 - share) * double(running_variance[c]));
    }
    mean[c] = float(centre);
    scale[c] = float(1.0 / sqrt(squares / n + double(eps)));
}

// The forward pass's arithmetic on WIDTH channels.
template <int WIDTH>
struct Norm {
    float mean[WIDTH], factor[WIDTH], bias[WIDTH];
    __device__ __forceinline__ Norm(const float *weight, const float *bias_, const float *mean_, const float *scale, int channel) {
        load_factors(mean, mean_ + channel);
        load_factors(bias, bias_ + channel);
        load_factors(factor, weight + channel);
        float scales[WIDTH];
        load_factors(scales, scale + channel);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) factor[v] *= scales[v];
    }
};

constexpr int NORM_THREADS = 256;

// Grid (rows · C / WIDTH / NORM_THREADS).
template <class E, int C, int WIDTH, Act ACT>
__device__ __forceinline__ void normalise(const E *x, const float *weight, const float *bias, const float *mean, const float *scale,
                                          E *out, u64 rows) {
    const u64 index = u64(blockIdx.x) * NORM_THREADS + threadIdx.x, row = index / (C / WIDTH);
    const int channel = int(index % (C / WIDTH)) * WIDTH;
    if (row >= rows) return;
    const Norm<WIDTH> norm(weight, bias, mean, scale, channel);
    float values[WIDTH];
    load_vector<E>(values, x + row * C + channel);
#pragma unroll
    for (int v = 0; v < WIDTH; v++) values[v] = exact_activate<ACT>(fmaf(values[v] - norm.mean[v], norm.factor[v], norm.bias[v]));
    store_vector<E>(out + row * C + channel, values);
}

// g of WIDTH channels, and x − mean.
template <class E, Act ACT, int WIDTH>
__device__ __forceinline__ void slopes_at(const E *x, const E *d_out, const Norm<WIDTH> &norm, u64 at, float (&g)[WIDTH],
                                          float (&centred)[WIDTH]) {
    load_vector<E>(centred, x + at);
    load_vector<E>(g, d_out + at);
#pragma unroll
    for (int v = 0; v < WIDTH; v++) {
        centred[v] -= norm.mean[v];
        g[v] *= derivative<ACT>(fmaf(centred[v], norm.factor[v], norm.bias[v]));
    }
}

// Σ g and Σ g·(x − mean).
template <class E, int C, int WIDTH, Act ACT>
struct Sums {
    static constexpr int Q = 2;
    const E *x, *d_out;
    const Norm<WIDTH> norm;
    __device__ __forceinline__ void add(float (&sums)[2][WIDTH], u64 row, int channel) const {
        float g[WIDTH], centred[WIDTH];
        slopes_at<E, ACT>(x, d_out, norm, row * C + channel, g, centred);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) {
            sums[0][v] += g[v];
            sums[1][v] = fmaf(g[v], centred[v], sums[1][v]);
        }
    }
};

// Sums of all parts → gradients of γ and β where they are wanted, and [2][C] of what `input` subtracts. Grid (C / PARTS_THREADS).
template <int C>
__device__ __forceinline__ void finish_sums(const float *partial, const float *scale, float *d_weight, float *d_bias, float *means,
                                            int parts, int rows) {
    const int c = int(blockIdx.x) * PARTS_THREADS + int(threadIdx.x);
    if (c >= C) return;
    const double sum = sum_parts(partial + c, parts, 2 * C), product = sum_parts(partial + C + c, parts, 2 * C);
    const double s = double(scale[c]), n = double(rows);
    if (d_weight != nullptr) d_weight[c] += float(product * s);
    if (d_bias != nullptr) d_bias[c] += float(sum);
    means[c] = float(sum / n);
    means[C + c] = float(product * s * s / n);
}

// Grid (rows · C / WIDTH / NORM_THREADS).
template <class E, int C, int WIDTH, Act ACT>
__device__ __forceinline__ void input(const E *x, const E *d_out, const float *weight, const float *bias, const float *mean,
                                      const float *scale, const float *means, const E *residual, E *d_x, u64 rows) {
    const u64 index = u64(blockIdx.x) * NORM_THREADS + threadIdx.x, row = index / (C / WIDTH);
    const int channel = int(index % (C / WIDTH)) * WIDTH;
    if (row >= rows) return;
    const Norm<WIDTH> norm(weight, bias, mean, scale, channel);
    float g[WIDTH], centred[WIDTH], plain[WIDTH], along[WIDTH];
    slopes_at<E, ACT>(x, d_out, norm, row * C + channel, g, centred);
    load_factors(plain, means + channel);
    load_factors(along, means + C + channel);
#pragma unroll
    for (int v = 0; v < WIDTH; v++) g[v] = fmaf(-centred[v], along[v], g[v] - plain[v]) * norm.factor[v];
    store_gradient<E>(d_x, residual, row * C + channel, g);
}

}  // namespace segface::batch_norm
