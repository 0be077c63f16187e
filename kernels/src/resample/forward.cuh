// Moves and poolings of maps [batch, height, width, C] of E            (`segface_kernels::resample`).
//
// One pass each: a thread makes 16 bytes of the output (WIDTH channels; one where C is no multiple of that). What several
// threads read comes from the caches. Grids of `bilinear`, `pixel_shuffle` and `max_pool`: (out_width · C / WIDTH / THREADS,
// out_height, batch), so that only the column needs a division.
#pragma once
#include "cuda/channel_sums.cuh"
#include "cuda/vector.cuh"

namespace segface::resample {

constexpr int THREADS = 256;

struct Size {
    int height, width;
};

// The output that a thread of such a grid makes.
template <int C, int WIDTH>
struct Place {
    static_assert(C % WIDTH == 0, "whole vectors");
    int image, y, x, channel;
    __device__ __forceinline__ Place() {
        const int index = int(blockIdx.x) * THREADS + int(threadIdx.x);
        image = int(blockIdx.z);
        y = int(blockIdx.y);
        x = index / (C / WIDTH);
        channel = index % (C / WIDTH) * WIDTH;
    }
    // Element of the pixel (y, x) of a map.
    __device__ __forceinline__ u64 at(const Size &map, int row, int column) const {
        return (u64(image * map.height + row) * u32(map.width) + u32(column)) * C + channel;
    }
};

// Where an output coordinate falls between two of the input: pixel centres are aligned, what lies before the first centre is
// moved onto it. (2i + 1)·input − output over 2·output is exact in integers.
struct Tap {
    int low, high;
    float weight;
    __device__ __forceinline__ Tap(int i, int input, int output) {
        const int numerator = max((2 * i + 1) * input - output, 0), denominator = 2 * output;
        low = min(numerator / denominator, input - 1);
        high = min(low + 1, input - 1);
        weight = float(numerator - low * denominator) / float(denominator);
    }
};

// Bilinear resize, align_corners = false, no antialias.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void bilinear(const E *__restrict__ x, E *__restrict__ out, Size input, Size output) {
    const Place<C, WIDTH> place;
    if (place.x >= output.width) return;
    const Tap row(place.y, input.height, output.height), column(place.x, input.width, output.width);
    float corners[2][2][WIDTH], values[WIDTH];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
            load_vector<E>(corners[i][j], x + place.at(input, i ? row.high : row.low, j ? column.high : column.low));
        }
#pragma unroll
    for (int v = 0; v < WIDTH; v++) {
        const float above = corners[0][0][v] * (1.0f - column.weight) + corners[0][1][v] * column.weight;
        const float below = corners[1][0][v] * (1.0f - column.weight) + corners[1][1][v] * column.weight;
        values[v] = above * (1.0f - row.weight) + below * row.weight;
    }
    store_vector<E>(out + place.at(output, place.y, place.x), values);
}

// out[b, 2y + i, 2x + j, c] = x[b, y, x, (2i + j)·C + c]; `input` is the size of x.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void pixel_shuffle(const E *__restrict__ x, E *__restrict__ out, Size input) {
    const Place<C, WIDTH> place;
    const Size output{2 * input.height, 2 * input.width};
    if (place.x >= output.width) return;
    const u64 pixel = u64(place.image * input.height + place.y / 2) * u32(input.width) + u32(place.x / 2);
    float values[WIDTH];
    load_vector<E>(values, x + (pixel * 4 + u32(place.y % 2 * 2 + place.x % 2)) * C + place.channel);
    store_vector<E>(out + place.at(output, place.y, place.x), values);
}

// Maximum of 3×3, stride 2, padding 1 that never wins. NaN wins.
template <class E, int C, int WIDTH>
__device__ __forceinline__ void max_pool(const E *__restrict__ x, E *__restrict__ out, Size input, Size output) {
    const Place<C, WIDTH> place;
    if (place.x >= output.width) return;
    float most[WIDTH];
#pragma unroll
    for (int v = 0; v < WIDTH; v++) most[v] = -__int_as_float(0x7f800000);
#pragma unroll
    for (int i = -1; i <= 1; i++)
#pragma unroll
        for (int j = -1; j <= 1; j++) {
            const int row = 2 * place.y + i, column = 2 * place.x + j;
            if (u32(row) < u32(input.height) && u32(column) < u32(input.width)) {
                float values[WIDTH];
                load_vector<E>(values, x + place.at(input, row, column));
#pragma unroll
                for (int v = 0; v < WIDTH; v++) most[v] = values[v] > most[v] || values[v] != values[v] ? values[v] : most[v];
            }
        }
    store_vector<E>(out + place.at(output, place.y, place.x), most);
}

// out[row] = x0[row] ‖ x1[row] ‖ x2[row] ‖ x3[row], rows of C0 .. C3 numbers. Grid (rows · channels / WIDTH / THREADS).
template <class E, int C0, int C1, int C2, int C3, int WIDTH>
__device__ __forceinline__ void concat(const E *__restrict__ x0, const E *__restrict__ x1, const E *__restrict__ x2,
                                       const E *__restrict__ x3, E *__restrict__ out, int rows) {
    constexpr int C = C0 + C1 + C2 + C3;
    static_assert(C0 % WIDTH == 0 && C1 % WIDTH == 0 && C2 % WIDTH == 0 && C3 % WIDTH == 0, "whole vectors");
    const u32 index = blockIdx.x * THREADS + threadIdx.x, row = index / (C / WIDTH), channel = index % (C / WIDTH) * WIDTH;
    if (row >= u32(rows)) return;
    const E *source = channel < C0             ? x0 + u64(row) * C0 + channel
                      : channel < C0 + C1      ? x1 + u64(row) * C1 + (channel - C0)
                      : channel < C0 + C1 + C2 ? x2 + u64(row) * C2 + (channel - C0 - C1)
                                               : x3 + u64(row) * C3 + (channel - C0 - C1 - C2);
    float values[WIDTH];
    load_vector<E>(values, source);
    store_vector<E>(out + u64(row) * C + channel, values);
}

// sums[b, c] = Σ_pixel x[b, pixel, c] in f32. LANES vectors × PIXELS threads; a thread adds up `SUM_RUN` pixels, PIXELS apart. Grid
// (pixels / (PIXELS · SUM_RUN), groups of LANES vectors, batch); partial [batch, blocks of an image, C], counters [batch, groups].
constexpr int SUM_RUN = 16;

template <class E, int C, int WIDTH, int LANES, int PIXELS>
__device__ __forceinline__ void sum_pool(const E *__restrict__ x, float *sums, float *partial, u32 *counters, int pixels) {
    static_assert(C % (LANES * WIDTH) == 0, "groups divide the channels");
    const int lane = int(threadIdx.x) % LANES, first = int(blockIdx.x) * PIXELS * SUM_RUN + int(threadIdx.x) / LANES;
    const int channel0 = int(blockIdx.y) * LANES * WIDTH, image = int(blockIdx.z), blocks = int(gridDim.x);
    const E *source = x + u64(image) * u32(pixels) * C + channel0 + lane * WIDTH;
    float sum[WIDTH];
#pragma unroll
    for (int v = 0; v < WIDTH; v++) sum[v] = 0.0f;
#pragma unroll 4
    for (int r = 0; r < SUM_RUN; r++) {
        const int pixel = first + r * PIXELS;
        if (pixel >= pixels) break;
        float values[WIDTH];
        load_vector<E>(values, source + u64(pixel) * C);
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sum[v] += values[v];
    }
    sum_channels<LANES, PIXELS>(sum, channel0, C, int(blockIdx.x), blocks, partial + u64(image) * blocks * C, sums + u64(image) * C,
                                counters + image * int(gridDim.y) + blockIdx.y, reinterpret_cast<float *>(shared_memory));
}

}  // namespace segface::resample
