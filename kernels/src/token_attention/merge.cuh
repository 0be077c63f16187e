// What the blocks of an image pass left, put together: the second half of a flash-decoding split.
#pragma once
#include "cuda/number.cuh"

namespace segface::token_attention {

// Maximum of nothing: finite, so that differences of maxima are numbers; e to it, less any score, is 0.
constexpr float LOWEST = -3.0e38f;

constexpr int MERGE_THREADS = 256, MAX_CHUNKS = 128;

// pooled[batch, rows, 256] from partial sums, in a fixed order. Grid (rows, batch): four groups of threads take every fourth
// partial sum, 16 bytes a lane.
__device__ __forceinline__ void merge(const float *partials, const float2 *statistics, float *pooled, int chunks) {
    __shared__ float weights[MAX_CHUNKS];
    __shared__ float4 sums[MERGE_THREADS];
    const int row = int(blockIdx.x), rows = int(gridDim.x), image = int(blockIdx.y), thread = int(threadIdx.x);
    const float2 *statistic = statistics + u64(image) * u32(chunks * rows) + row;
    if (thread < 32) {
        // Chunk c is lane c % 32's.
        float top = LOWEST, total = 0;
        for (int c = thread; c < chunks; c += 32) top = fmaxf(top, statistic[c * rows].x);
#pragma unroll
        for (int d = 1; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
        for (int c = thread; c < chunks; c += 32) {
            const float2 part = statistic[c * rows];
            weights[c] = expf(part.x - top);
            total += weights[c] * part.y;
        }
#pragma unroll
        for (int d = 1; d < 32; d *= 2) total += __shfl_xor_sync(~0u, total, d);
        for (int c = thread; c < chunks; c += 32) weights[c] /= total;
    }
    __syncthreads();
    const int group = thread / 64, column = thread % 64 * 4;
    float4 sum{0, 0, 0, 0};
    const float *source = partials + (u64(image) * u32(chunks) * u32(rows) + u32(row)) * 256 + column;
#pragma unroll 4
    for (int c = group; c < chunks; c += 4) {
        const float4 part = *reinterpret_cast<const float4 *>(source + u64(c) * u32(rows) * 256);
        const float w = weights[c];
        sum.x += w * part.x, sum.y += w * part.y, sum.z += w * part.z, sum.w += w * part.w;
    }
    sums[thread] = sum;
    __syncthreads();
    if (group == 0) {
#pragma unroll
        for (int i = 1; i < 4; i++) {
            const float4 part = sums[i * 64 + thread];
            sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
        }
        *reinterpret_cast<float4 *>(pooled + (u64(image) * u32(rows) + u32(row)) * 256 + column) = sum;
    }
}

}  // namespace segface::token_attention
