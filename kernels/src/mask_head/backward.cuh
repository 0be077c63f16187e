// Gradients of the hypernetwork's product                         (`segface_kernels::mask_head::backward::mask_product_backward`).
//
//     logits[p, t] = hyper[t]·u[p]:  d_u[p] = Σ_t d_logits[p, t]·hyper[t],  d_hyper[t] = Σ_p d_logits[p, t]·u[p]
//
// u [batch, pixels, 32] of E, hyper [batch, T, 32], d_logits [batch, pixels, T]. FLOPs 128·batch·pixels·T.
#pragma once
#include "cuda/backward.cuh"

namespace segface::mask_head {

constexpr int PRODUCT_THREADS = 256, PRODUCT_WIDTH = 32;
// Pixels in shared memory at a time, and of a part of d_hyper's sum.
constexpr int PRODUCT_PIXELS = 64, PRODUCT_PART = 1024;

// Eight threads a pixel. Grid (pixels / 32, batch).
template <class E, int CLASSES>
__device__ __forceinline__ void product_map(const float *hyper, const float *d_logits, E *d_u, int pixels) {
    __shared__ __align__(16) float filters[CLASSES][PRODUCT_WIDTH];
    const int thread = int(threadIdx.x), image = int(blockIdx.y), pixel = int(blockIdx.x) * 32 + thread / 8, column = thread % 8 * 4;
    for (int i = thread; i < CLASSES * PRODUCT_WIDTH; i += PRODUCT_THREADS) {
        filters[i / PRODUCT_WIDTH][i % PRODUCT_WIDTH] = hyper[u64(image) * (CLASSES * PRODUCT_WIDTH) + i];
    }
    __syncthreads();
    if (pixel >= pixels) return;
    const u64 at = u64(image) * u32(pixels) + u32(pixel);
    float sum[4] = {};
#pragma unroll
    for (int t = 0; t < CLASSES; t++) {
        const float d = d_logits[at * CLASSES + t];
        float filter[4];
        load_floats(filter, &filters[t][column]);
#pragma unroll
        for (int v = 0; v < 4; v++) sum[v] = fmaf(d, filter[v], sum[v]);
    }
#pragma unroll
    for (int v = 0; v < 4; v++) d_u[at * PRODUCT_WIDTH + column + v] = narrow<E>(sum[v]);
}

// partial[image][part][T][32]. A warp has classes of its own, a lane a column. Grid (parts, batch).
template <class E, int CLASSES>
__device__ __forceinline__ void product_filters(const E *u, const float *d_logits, float *partial, int pixels) {
    constexpr int WARPS = PRODUCT_THREADS / 32, EACH = ceil_divide(CLASSES, WARPS);
    __shared__ float map[PRODUCT_PIXELS][PRODUCT_WIDTH], slopes[PRODUCT_PIXELS][CLASSES];
    const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32, image = int(blockIdx.y);
    const int begin = int(blockIdx.x) * PRODUCT_PART, end = min(pixels, begin + PRODUCT_PART);
    float sums[EACH] = {};
    for (int first = begin; first < end; first += PRODUCT_PIXELS) {
        const int count = min(PRODUCT_PIXELS, end - first);
        const u64 at = u64(image) * u32(pixels) + u32(first);
        __syncthreads();
        for (int i = thread; i < count * PRODUCT_WIDTH; i += PRODUCT_THREADS) {
            map[i / PRODUCT_WIDTH][i % PRODUCT_WIDTH] = widen(u[at * PRODUCT_WIDTH + i]);
        }
        for (int i = thread; i < count * CLASSES; i += PRODUCT_THREADS) slopes[i / CLASSES][i % CLASSES] = d_logits[at * CLASSES + i];
        __syncthreads();
        float tile[EACH] = {};
        for (int pixel = 0; pixel < count; pixel++) {
            const float value = map[pixel][lane];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (warp + e * WARPS < CLASSES) tile[e] = fmaf(value, slopes[pixel][warp + e * WARPS], tile[e]);
            }
        }
#pragma unroll
        for (int e = 0; e < EACH; e++) sums[e] += tile[e];
    }
    float *to = partial + (u64(image) * gridDim.x + blockIdx.x) * (CLASSES * PRODUCT_WIDTH);
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        if (warp + e * WARPS < CLASSES) to[(warp + e * WARPS) * PRODUCT_WIDTH + lane] = sums[e];
    }
}

}  // namespace segface::mask_head
