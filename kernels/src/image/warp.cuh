// LaPa's RoI-tanh warp of the image and un-warp of the logits                  (`segface_kernels::image::FaceWarp`)
//
//     warp:    out[y, x] = sample(image, M⁻¹·(bend(x), bend(y)))
//     unwarp:  out[y, x] = sample(logits, unbend(M·(x, y)))
//
// The published networks saw f32 grids with all their rounding errors, which `tanh` makes large far from the face. So every
// operation here is one rounding, in the published order, fused with no other: bit for bit what the CPU computes.
// `sample` is bilinear with zeros outside, half-pixel centres.
#pragma once
#include "image/resize.cuh"

namespace segface::image {

// Sums and products that the compiler may not fuse.
__device__ __forceinline__ float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float minus(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float times(float a, float b) { return __fmul_rn(a, b); }

struct Point {
    float x, y;
};

// [x', y'] = [m0·x + m1·y + m2, m3·x + m4·y + m5]
__device__ __forceinline__ Point apply(const float *m, float x, float y) {
    return {plus(plus(times(m[0], x), times(m[1], y)), m[2]), plus(plus(times(m[3], x), times(m[4], y)), m[5])};
}

// Hyperbolic tangent of x ≥ 0, `tanh` of `image/cpu/warp.rs` step by step.
__device__ __forceinline__ float tanh_positive(float x) {
    const float round = 12582912.0f;  // adding and subtracting 1.5·2²³ rounds to an integer
    const float exponent = fminf(fmaxf(times(x, -2.0f * 1.44269504088896340736f), -126.0f), 0.0f);
    const float whole = minus(plus(exponent, round), round);
    const float r = times(minus(exponent, whole), 0.693147180559945309417f);
    float power = plus(1.0f / 120.0f, times(r, 1.0f / 720.0f));
    power = plus(1.0f / 24.0f, times(r, power));
    power = plus(1.0f / 6.0f, times(r, power));
    power = plus(0.5f, times(r, power));
    power = plus(1.0f, times(r, power));
    power = plus(1.0f, times(r, power));
    const float e = times(power, __int_as_float((int(whole) + 127) << 23));
    return minus(1.0f, e) / plus(1.0f, e);
}

// From the standard frame to the warped frame, one axis in [−1, 1]: the outer 0.8 of each half is bent.
__device__ __forceinline__ float unbend(float c) {
    const float factor = 0.8f, straight = 1.0f - 0.8f;
    const float inner = plus(minus(fabsf(c), 1.0f), factor) / factor;
    const float bent = minus(plus(times(tanh_positive(inner), factor), 1.0f), factor);
    return fabsf(c) > straight ? copysignf(bent, c) : c;
}

// A bilinear sample: the weights of its four corners (upper left, upper right, lower left, lower right), the pixel number of the
// first, and which of them lie inside.
struct alignas(16) Sample {
    float weights[4];
    int corner;
    u32 inside;
};

// The point is in pixels of a frame of `frame` = (width, height), which the source covers. It is normalised and unnormalised again,
// as the published code does. A NaN lies nowhere.
__device__ __forceinline__ Sample sample_at(Point point, Point frame, int width, int height) {
    const float size_x = float(width), size_y = float(height);
    const float x = minus(times(plus(minus(times(point.x / frame.x, 2.0f), 1.0f), 1.0f), size_x / 2.0f), 0.5f);
    const float y = minus(times(plus(minus(times(point.y / frame.y, 2.0f), 1.0f), 1.0f), size_y / 2.0f), 0.5f);
    const float left = floorf(x), top = floorf(y);
    const float east = minus(x, left), south = minus(y, top), west = minus(1.0f, east), north = minus(1.0f, south);
    Sample sample;
    sample.inside = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float cx = plus(left, float(i % 2)), cy = plus(top, float(i / 2));
        if (cx >= 0.0f && cy >= 0.0f && cx < size_x && cy < size_y) sample.inside |= 1u << i;
    }
    sample.corner = sample.inside != 0 ? int(top) * width + int(left) : 0;
    sample.weights[0] = times(north, west);
    sample.weights[1] = times(north, east);
    sample.weights[2] = times(south, west);
    sample.weights[3] = times(south, east);
    return sample;
}

// Σ weights · value(row, column) over the corners inside; rows and columns are 0 and 1.
template <class Value>
__device__ __forceinline__ float interpolate(const Sample &sample, const Value &value) {
    if (sample.inside == 15) {
        const float upper = plus(times(value(0, 0), sample.weights[0]), times(value(0, 1), sample.weights[1]));
        const float three = plus(upper, times(value(1, 0), sample.weights[2]));
        return plus(three, times(value(1, 1), sample.weights[3]));
    }
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (sample.inside >> i & 1) sum = plus(sum, times(value(i / 2, i % 2), sample.weights[i]));
    }
    return sum;
}

// Images that a warp reads.

// RGB8, normalised as it is read: the resized photo needs no copy in f32.
struct RgbImage {
    const u8 *data;
    __device__ __forceinline__ float at(u64 pixel, int channel) const {
        return normalise(data[pixel * 3 + u32(channel)], channel);
    }
};
// Normalised.
struct FloatImage {
    const float *data;
    __device__ __forceinline__ float at(u64 pixel, int channel) const { return data[pixel * 3 + u32(channel)]; }
};

// Into the network: batch images `[height, width, 3]` to out `[batch, warped height, warped width, 3]`, overwritten.
//
// `columns`, `rows`: the bent coordinates of each column and row of the warped frame, made on the host; they depend on its size
// alone. `matrices`: six numbers per image. A thread makes a pixel. Grid: (⌈warped width / 32⌉, ⌈warped height / 8⌉, batch).
// Bytes: image and result once.
constexpr int WARP_COLUMNS = 32, WARP_ROWS = 8, WARP_THREADS = WARP_COLUMNS * WARP_ROWS;

template <class Image, class E>
__device__ __forceinline__ void warp(const Image &image, int width, int height, const float *matrices, const float *columns,
                                     const float *rows, E *out, int warped_width, int warped_height) {
    const int x = int(blockIdx.x) * WARP_COLUMNS + (int(threadIdx.x) & 31);
    const int y = int(blockIdx.y) * WARP_ROWS + int(threadIdx.x) / 32, index = int(blockIdx.z);
    if (x >= warped_width || y >= warped_height) return;
    const Point point = apply(matrices + 6 * index, columns[x], rows[y]);
    const Sample sample = sample_at(point, {float(width), float(height)}, width, height);
    const u64 first = u64(index) * u32(width) * u32(height);
    E *pixel = out + ((u64(index) * u32(warped_height) + u32(y)) * u32(warped_width) + u32(x)) * 3;
#pragma unroll
    for (int c = 0; c < 3; c++) {
        pixel[c] = narrow<E>(interpolate(sample, [&](int row, int column) {
            return image.at(first + u32(sample.corner + row * width + column), c);
        }));
    }
}

}  // namespace segface::image
