// Gradient of the way out of LaPa's warp                                  (`segface_kernels::image::FaceWarp::unwarp_backward`): what a
// pixel of the image took from four logits, it gives back to them.
//
// Pixels of the image are listed by the place of their sample (`FaceWarp::cells`): list (top + 1)·(width + 1) + left + 1, pixels ascending. A logit
// adds up what the four lists around it give, so sums have one order. A warp makes the logits of one place, a lane a class.
#pragma once
#include "image/warp.cuh"

namespace segface::image {

constexpr int UNWARP_BACKWARD_THREADS = 256;

// d_out `[batch, out_height, out_width, CLASSES]` to d_logits `[batch, height, width, CLASSES]`, overwritten. starts `[batch, (height + 1)·(width
// + 1) + 1]`, pixels `[batch, out_height · out_width]`. Grid (width · height / 8, batch).
template <int CLASSES>
__device__ __forceinline__ void unwarp_backward(const float *d_out, float *d_logits, const float *matrices, const u32 *starts,
                                                const u32 *pixels, int width, int height, int out_width, int out_height) {
    const int lane = int(threadIdx.x) % 32, place = int(blockIdx.x) * (UNWARP_BACKWARD_THREADS / 32) + int(threadIdx.x) / 32;
    if (place >= width * height) return;
    const u32 image = blockIdx.y, count = u32(out_width) * u32(out_height), cells = u32(width + 1) * u32(height + 1);
    const int x = place % width, y = place / width;
    const float frame_width = float(width), frame_height = float(height);
    starts += u64(image) * (cells + 1);
    pixels += u64(image) * count;
    d_out += u64(image) * count * CLASSES;
    constexpr int EACH = ceil_divide(CLASSES, 32);
    float sums[EACH] = {};
    for (int corner = 0; corner < 4; corner++) {
        // Corner 0: the logit is upper left of the sample, and so on.
        const u32 cell = u32(y + 1 - corner / 2) * u32(width + 1) + u32(x + 1 - corner % 2);
        for (u32 i = starts[cell]; i < starts[cell + 1]; i++) {
            const u32 pixel = pixels[i];
            const Point q = apply(matrices + 6 * image, float(pixel % u32(out_width)), float(pixel / u32(out_width)));
            const Point bent{times(plus(unbend(minus(times(q.x / frame_width, 2.0f), 1.0f)), 1.0f) / 2.0f, frame_width),
                             times(plus(unbend(minus(times(q.y / frame_height, 2.0f), 1.0f)), 1.0f) / 2.0f, frame_height)};
            const float weight = sample_at(bent, {frame_width, frame_height}, width, height).weights[corner];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (lane + 32 * e < CLASSES) sums[e] = fmaf(d_out[u64(pixel) * CLASSES + lane + 32 * e], weight, sums[e]);
            }
        }
    }
    float *to = d_logits + (u64(image) * u32(width * height) + u32(place)) * CLASSES;
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        if (lane + 32 * e < CLASSES) to[lane + 32 * e] = sums[e];
    }
}

}  // namespace segface::image
