// Gradients of moves and poolings                                     (`segface_kernels::resample::backward`).
//
// Gathers: a thread makes WIDTH channels of a pixel of the gradient from what that pixel gave to. Grid of all but `sum_pool_backward`
// and `patch_gather_backward`: (width · C / WIDTH / THREADS, height, batch) of the gradient.
#pragma once
#include "cuda/backward.cuh"
#include "resample/forward.cuh"

namespace segface::resample {

// Outputs of an axis that read input `i` lie in first .. last: what an output coordinate reads is monotonous in it.
struct ReaderRange {
    int first, last;
    __device__ __forceinline__ ReaderRange(int i, int input, int output) {
        // Output o reads low = ⌊((2o + 1)·input − output) / (2·output)⌋ and low + 1; those before the first centre read 0.
        const int from = (2 * (i - 1) + 1) * output, to = (2 * (i + 1) + 1) * output;
        first = i == 0 ? 0 : max((from / input - 1) / 2 - 1, 0);
        last = i == input - 1 ? output - 1 : min((to / input + 1) / 2 + 1, output - 1);
    }
};

// The share that output `o` took of input `i`.
__device__ __forceinline__ float share_of(int o, int i, int input, int output) {
    const Tap tap(o, input, output);
    if (tap.low == tap.high) return tap.low == i ? 1.0f : 0.0f;
    return tap.low == i ? 1.0f - tap.weight : tap.high == i ? tap.weight : 0.0f;
}

// d_x[iy, ix] (+)= Σ_oy w_y(oy, iy)·Σ_ox w_x(ox, ix)·d_out[oy, ox].
template <class E, int C, int WIDTH>
__device__ __forceinline__ void bilinear_backward(const E *d_out, const E *residual, E *d_x, Size input, Size output) {
    const Place<C, WIDTH> place;
    if (place.x >= input.width) return;
    const ReaderRange rows(place.y, input.height, output.height), columns(place.x, input.width, output.width);
    float sum[WIDTH] = {};
    for (int y = rows.first; y <= rows.last; y++) {
        const float along = share_of(y, place.y, input.height, output.height);
        // A weight of zero would multiply what may be infinite.
        if (along == 0.0f) continue;
        float line[WIDTH] = {};
        for (int x = columns.first; x <= columns.last; x++) {
            const float across = share_of(x, place.x, input.width, output.width);
            if (across == 0.0f) continue;
            float d[WIDTH];
            load_vector<E>(d, d_out + place.at(output, y, x));
#pragma unroll
            for (int v = 0; v < WIDTH; v++) line[v] = fmaf(d[v], across, line[v]);
        }
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sum[v] = fmaf(line[v], along, sum[v]);
    }
    store_gradient<E>(d_x, residual, place.at(input, place.y, place.x), sum);
}

// d_x[b, y, x, (2i + j)·C + c] (+)= d_out[b, 2y + i, 2x + j, c]. `input` is the size of x, whose pixels have 4·C channels.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void pixel_shuffle_backward(const E *d_out, const E *residual, E *d_x, Size input) {
    const Place<4 * C, WIDTH> place;
    if (place.x >= input.width) return;
    const int part = place.channel / C, channel = place.channel - part * C;
    const u64 row = u64(place.image * input.height + place.y) * 2 + u32(part / 2);
    float values[WIDTH];
    load_vector<E>(values, d_out + (row * u32(2 * input.width) + u32(2 * place.x + part % 2)) * C + channel);
    store_gradient<E>(d_x, residual, place.at(input, place.y, place.x), values);
}

// The gradient of an output goes to the first largest of its inputs, row by row. An input asks each of the at most four windows that it
// lies in, so no index is stored.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void max_pool_backward(const E *x, const E *out, const E *d_out, const E *residual, E *d_x, Size input,
                                                  Size output) {
    const Place<C, WIDTH> place;
    if (place.x >= input.width) return;
    float own[WIDTH], sum[WIDTH] = {};
    load_vector<E>(own, x + place.at(input, place.y, place.x));
    const int last_row = min((place.y + 1) / 2, output.height - 1), last_column = min((place.x + 1) / 2, output.width - 1);
    for (int row = place.y / 2; row <= last_row; row++) {
        for (int column = place.x / 2; column <= last_column; column++) {
            float best[WIDTH], share[WIDTH];
            load_vector<E>(best, out + place.at(output, row, column));
            load_vector<E>(share, d_out + place.at(output, row, column));
#pragma unroll
            for (int v = 0; v < WIDTH; v++) share[v] = own[v] < best[v] ? 0.0f : share[v];
            for (int y = max(2 * row - 1, 0); y <= place.y; y++) {
                const int end = y == place.y ? place.x : min(2 * column + 2, input.width);
                for (int other = max(2 * column - 1, 0); other < end; other++) {
                    float values[WIDTH];
                    load_vector<E>(values, x + place.at(input, y, other));
#pragma unroll
                    for (int v = 0; v < WIDTH; v++) share[v] = values[v] < best[v] ? share[v] : 0.0f;
                }
            }
#pragma unroll
            for (int v = 0; v < WIDTH; v++) sum[v] += share[v];
        }
    }
    store_gradient<E>(d_x, residual, place.at(input, place.y, place.x), sum);
}

// d_x[b, p, c] (+)= d_out[b, c], d_out f32. Grid (pixels · C / WIDTH / THREADS, batch).
template <class E, int C, int WIDTH>
__device__ __forceinline__ void sum_pool_backward(const float *d_out, const E *residual, E *d_x, int pixels) {
    const u64 index = u64(blockIdx.x) * THREADS + threadIdx.x, image = blockIdx.y;
    if (index >= u64(pixels) * (C / WIDTH)) return;
    const int channel = int(index % (C / WIDTH)) * WIDTH;
    float values[WIDTH];
    load_factors(values, d_out + image * C + channel);
    store_gradient<E>(d_x, residual, image * u32(pixels) * C + index * WIDTH, values);
}

// d_x[b, 2y + i, 2x + j] (+)= d_out[b, y, x, (2j + i)·C ..]. Grid of d_x.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void patch_gather_backward(const E *d_out, const E *residual, E *d_x, Size input) {
    const Place<C, WIDTH> place;
    if (place.x >= input.width) return;
    const int rows = (input.height + 1) / 2, columns = (input.width + 1) / 2;
    const u64 pixel = u64(place.image * rows + place.y / 2) * u32(columns) + u32(place.x / 2);
    float values[WIDTH];
    load_vector<E>(values, d_out + (pixel * 4 + u32(2 * (place.x % 2) + place.y % 2)) * C + place.channel);
    store_gradient<E>(d_x, residual, place.at(input, place.y, place.x), values);
}

}  // namespace segface::resample
