// Logits to labels: at their own size, at the photo's, and out of the warped frame
//                                (`segface_kernels::image::{argmax_labels, LabelResizer}`, `FaceWarp::unwarp`)
//
//     argmax_labels:  labels[p] = argmax_t logits[p, t]
//     resize_labels:  labels[y, x] = argmax_t bilinear(logits[·, ·, t])(y, x)
//     unwarp:         out[y, x, t] = logits[·, ·, t] sampled at the warped place of (x, y), labels of that beside it
//
// argmax is the first index of the largest value, a NaN counting as −∞. Where four neighbouring pixels have one label, so has
// every pixel between them, and `resize_labels` computes nothing: it takes those labels from `argmax_labels`, `unwarp` or the
// network, and logits are read on the boundaries between parts only, a few per cent. H·W·T upscaled logits never exist.
// Arithmetic is in the CPU's order, without fused operations, so that labels are equal bit for bit.
//
// Pixels have T = 11 or 19 logits, no multiple of anything. So lanes go over the flat row of logits, which is whole sectors, and
// a pixel's logits meet in shared memory, in rows of an odd number of words.
#pragma once
#include "image/warp.cuh"

namespace segface::image {

template <int CLASSES>
struct LabelTile {
    static_assert(CLASSES >= 1 && CLASSES <= 256, "a label is a byte");
    static constexpr int PIXELS = CLASSES <= 32 ? 256 : 32, THREADS = 256, PITCH = CLASSES | 1;
};

// The larger of a running pair and a value that comes after it.
struct Best {
    float value = __int_as_float(0xff800000);  // −∞
    int label = 0;
    __device__ __forceinline__ void offer(float candidate, int index) {
        if (candidate > value) {
            value = candidate;
            label = index;
        }
    }
};

// Labels of the pixels whose logits are in shared memory.
template <int CLASSES>
__device__ __forceinline__ void store_labels(const float *values, u8 *labels, u64 first, int count) {
    using Tile = LabelTile<CLASSES>;
    for (int p = int(threadIdx.x); p < count; p += Tile::THREADS) {
        Best best;
#pragma unroll 8
        for (int t = 0; t < CLASSES; t++) best.offer(values[p * Tile::PITCH + t], t);
        labels[first + u32(p)] = u8(best.label);
    }
}

// Pixels of tile blockIdx.x among `pixels`.
template <int CLASSES>
__device__ __forceinline__ int tile_pixels(u32 first, u32 pixels) {
    const u32 left = pixels - first;
    return left < LabelTile<CLASSES>::PIXELS ? int(left) : LabelTile<CLASSES>::PIXELS;
}

// logits `[pixels, CLASSES]` to labels `[pixels]`, overwritten. Grid: ⌈pixels / LabelTile::PIXELS⌉.
template <class L, int CLASSES>
__device__ __forceinline__ void argmax_labels(const L *logits, u8 *labels, u32 pixels) {
    using Tile = LabelTile<CLASSES>;
    __shared__ float values[Tile::PIXELS * Tile::PITCH];
    const u32 first = blockIdx.x * Tile::PIXELS;
    const int count = tile_pixels<CLASSES>(first, pixels);
#pragma unroll 4
    for (int i = int(threadIdx.x); i < count * CLASSES; i += Tile::THREADS) {
        values[i / CLASSES * Tile::PITCH + i % CLASSES] = widen(logits[u64(first) * CLASSES + u32(i)]);
    }
    __syncthreads();
    store_labels<CLASSES>(values, labels, first, count);
}

// Out of the network: batch maps of logits `[height, width, CLASSES]` that cover the warped frame of `frame` = (width, height), to
// out `[batch, out_height, out_width, CLASSES]` in the image's frame, and their labels, both overwritten. Outside of what the
// network saw all logits are 0, so the label is 0, the background. Grid: (⌈out pixels / LabelTile::PIXELS⌉, 1, batch).
// The place of a pixel is computed once, then used for each of its logits.
template <class L, int CLASSES>
__device__ __forceinline__ void unwarp(const L *logits, int width, int height, float frame_width, float frame_height,
                                       const float *matrices, float *out, u8 *labels, int out_width, int out_height) {
    using Tile = LabelTile<CLASSES>;
    __shared__ float values[Tile::PIXELS * Tile::PITCH];
    __shared__ Sample samples[Tile::PIXELS];
    const u32 image = blockIdx.z;
    const u32 first = blockIdx.x * Tile::PIXELS, pixels = u32(out_width) * u32(out_height);
    const int count = tile_pixels<CLASSES>(first, pixels);
    logits += u64(image) * u32(width) * u32(height) * CLASSES;
    out += (u64(image) * pixels + first) * CLASSES;
    for (int p = int(threadIdx.x); p < count; p += Tile::THREADS) {
        const u32 pixel = first + u32(p);
        const Point q = apply(matrices + 6 * image, float(pixel % u32(out_width)), float(pixel / u32(out_width)));
        const Point bent{times(plus(unbend(minus(times(q.x / frame_width, 2.0f), 1.0f)), 1.0f) / 2.0f, frame_width),
                         times(plus(unbend(minus(times(q.y / frame_height, 2.0f), 1.0f)), 1.0f) / 2.0f, frame_height)};
        samples[p] = sample_at(bent, {frame_width, frame_height}, width, height);
    }
    __syncthreads();
    const u64 row_values = u64(u32(width)) * CLASSES;
#pragma unroll 2
    for (int i = int(threadIdx.x); i < count * CLASSES; i += Tile::THREADS) {
        const int p = i / CLASSES, t = i % CLASSES;
        const Sample sample = samples[p];
        const L *upper = logits + (static_cast<long long>(sample.corner) * CLASSES + t), *lower = upper + row_values;
        const float value = interpolate(sample, [&](int row, int column) {
            return widen((row == 0 ? upper : lower)[column * CLASSES]);
        });
        out[i] = value;
        values[p * Tile::PITCH + t] = value;
    }
    __syncthreads();
    store_labels<CLASSES>(values, labels, u64(image) * pixels + first, count);
}

// Output index to source: lower neighbour and weight of the upper one, half-pixel centres.
struct Place {
    int lower, upper;
    float weight;
};
__device__ __forceinline__ Place source_of(int index, float scale, int input) {
    const float position = fmaxf(minus(times(scale, plus(float(index), 0.5f)), 0.5f), 0.0f);
    const int lower = int(position) < input - 1 ? int(position) : input - 1;
    const float weight = fminf(fmaxf(minus(position, float(lower)), 0.0f), 1.0f);
    return {lower, lower + 1 < input ? lower + 1 : lower, weight};
}

// logits `[height, width, CLASSES]` with their labels `corners` to labels `[out_height, out_width]`, `stride` bytes from row to
// row, overwritten: a window of a larger map. A lane has a column and a warp 8 rows, one after the other, which mostly lie
// between the same four pixels. Grid: (⌈out_width / 32⌉, ⌈out_height / 64⌉). Bytes: h·w and the boundary's logits read, H·W written.
struct LabelResize {
    static constexpr int COLUMNS = 32, WARPS = 8, ROWS = 8, THREADS = 32 * WARPS;
};

template <class L, int CLASSES>
__device__ __forceinline__ void resize_labels(const L *logits, const u8 *corners, int width, int height, u8 *labels, u64 stride,
                                              int out_width, int out_height) {
    const int x = int(blockIdx.x) * LabelResize::COLUMNS + (int(threadIdx.x) & 31);
    const int y0 = (int(blockIdx.y) * LabelResize::WARPS + int(threadIdx.x) / 32) * LabelResize::ROWS;
    if (x >= out_width) return;
    const Place across = source_of(x, float(width) / float(out_width), width);
    const float scale = float(height) / float(out_height);
    int known = -1, label = 0;
    bool same = false;
    for (int y = y0; y < y0 + LabelResize::ROWS && y < out_height; y++) {
        const Place down = source_of(y, scale, height);
        if (down.lower != known) {
            known = down.lower;
            const u8 *upper = corners + u64(u32(down.lower)) * u32(width), *lower = corners + u64(u32(down.upper)) * u32(width);
            label = upper[across.lower];
            same = label == upper[across.upper] && label == lower[across.lower] && label == lower[across.upper];
        }
        int found = label;
        if (!same) {
            const L *upper = logits + u64(u32(down.lower)) * u32(width) * CLASSES;
            const L *lower = logits + u64(u32(down.upper)) * u32(width) * CLASSES;
            const int left = across.lower * CLASSES, right = across.upper * CLASSES;
            const float north = minus(1.0f, down.weight), west = minus(1.0f, across.weight);
            Best best;
#pragma unroll 4
            for (int t = 0; t < CLASSES; t++) {
                const float a = plus(times(widen(upper[left + t]), north), times(widen(lower[left + t]), down.weight));
                const float b = plus(times(widen(upper[right + t]), north), times(widen(lower[right + t]), down.weight));
                best.offer(plus(times(a, west), times(b, across.weight)), t);
            }
            found = best.label;
        }
        labels[u64(u32(y)) * stride + u32(x)] = u8(found);
    }
}

}  // namespace segface::image
