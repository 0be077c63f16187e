// The lowest rung of the image pass: one kernel for each line of the formula, one thread for each number (or row), scores written to
// memory in f32. For comparison and for tests of the rungs above:
//
//   naive          this file: scores [P, N] cross memory four times, every operand is read from the caches for every number
//   tiled          `forward.cuh` with `Plain`, in f32 `Single`: tiles of tokens in shared memory, fused multiply-adds, nothing of size
//                  [P, N] in memory
//   tensor core    `forward.cuh` with `Half`, `Bfloat`, `Tf32`
//
// Operands as in `forward.cuh`, but A_u, V_u, A_a are f32 [batch, N, 256] as the token step leaves them.
#pragma once
#include "token_attention/position.cuh"

namespace segface::token_attention {

constexpr int NAIVE_THREADS = 256;

// Terms that are summed on their own before they meet a long sum: one of all terms would lose more than a kernel may.
constexpr int NAIVE_TERMS = 32;

// One number of the encoding of a token.
__device__ __forceinline__ float position(const float *pe, int token, int width, int channel) {
    const float *a = pe + token % width * 256, *b = pe + (width + token / width) * 256;
    const int i = channel % 128;
    return channel < 128 ? a[i] * b[128 + i] + a[128 + i] * b[i] : a[128 + i] * b[128 + i] - a[i] * b[i];
}

// scores[batch, P, N] = A·(x + pe) + c. `bias` may be null, one A may be shared. Grid (blocks of P·N, batch).
template <class E>
__device__ __forceinline__ void naive_scores(const E *x, const float *pe, const float *a, const float *bias, float *scores, int pixels,
                                             int width, int n, bool shared_a) {
    const u64 index = u64(blockIdx.x) * NAIVE_THREADS + threadIdx.x;
    const int image = int(blockIdx.y), token = int(index / u32(n)), row = int(index % u32(n));
    if (token >= pixels) return;
    const E *source = x + (u64(image) * u32(pixels) + u32(token)) * 256;
    const float *weights = a + (u64(shared_a ? 0 : image) * u32(n) + u32(row)) * 256;
    float sum = bias == nullptr ? 0.0f : bias[image * n + row];
    for (int begin = 0; begin < 256; begin += NAIVE_TERMS) {
        float part = 0;
        for (int i = begin; i < begin + NAIVE_TERMS; i++) {
            // Rounded as an operand of a product is.
            part = fmaf(widen(narrow<E>(widen(source[i]) + position(pe, token, width, i))), widen(narrow<E>(weights[i])), part);
        }
        sum += part;
    }
    scores[(u64(image) * u32(pixels) + u32(token)) * u32(n) + u32(row)] = sum;
}

// Softmax over the T tokens of a head, in place, order t·8 + h. One thread for each image token and head. Grid (blocks of 8·P, batch).
__device__ __forceinline__ void naive_softmax_over_tokens(float *scores, int pixels, int tokens) {
    const int index = int(blockIdx.x) * NAIVE_THREADS + int(threadIdx.x);
    if (index >= pixels * 8) return;
    float *row = scores + (u64(blockIdx.y) * u32(pixels) + u32(index / 8)) * u32(8 * tokens) + index % 8;
    float top = row[0], sum = 0;
    for (int t = 1; t < tokens; t++) top = fmaxf(top, row[t * 8]);
    for (int t = 0; t < tokens; t++) sum += row[t * 8] = expf(row[t * 8] - top);
    for (int t = 0; t < tokens; t++) row[t * 8] /= sum;
}

// x ← LN(x + Σ s·V_u + b_u): a block of 256 threads for each image token. Grid (P, batch).
template <class E>
__device__ __forceinline__ void naive_update(const E *x, E *out, const float *scores, const float *values, const float *bias,
                                             const float *norm_weight, const float *norm_bias, int n, float eps) {
    __shared__ float sums[2][8];
    const int channel = int(threadIdx.x), image = int(blockIdx.y);
    const u64 token = u64(image) * gridDim.x + blockIdx.x;
    float value = widen(x[token * 256 + u32(channel)]) + bias[channel];
    for (int row = 0; row < n; row++) {
        value = fmaf(widen(narrow<E>(scores[token * u32(n) + u32(row)])),
                     widen(narrow<E>(values[(u64(image) * u32(n) + u32(row)) * 256 + u32(channel)])), value);
    }
    auto mean_of = [&](float part, int which) {
        for (int d = 1; d < 32; d *= 2) part += __shfl_xor_sync(~0u, part, d);
        if (channel % 32 == 0) sums[which][channel / 32] = part;
        __syncthreads();
        float sum = 0;
        for (int w = 0; w < 8; w++) sum += sums[which][w];
        return sum / 256.0f;
    };
    const float centred = value - mean_of(value, 0);
    const float scale = rsqrtf(mean_of(centred * centred, 1) + eps);
    out[token * 256 + u32(channel)] = narrow<E>(centred * scale * norm_weight[channel] + norm_bias[channel]);
}

// Softmax over the image tokens, in place: a warp for each row of scores. Grid (blocks of N warps, batch).
__device__ __forceinline__ void naive_softmax_over_image(float *scores, int pixels, int n) {
    const int row = int(blockIdx.x) * (NAIVE_THREADS / 32) + int(threadIdx.x) / 32, lane = int(threadIdx.x) & 31;
    if (row >= n) return;
    float *column = scores + u64(blockIdx.y) * u32(pixels) * u32(n) + row;
    float top = -3.0e38f, sum = 0;
    for (int p = lane; p < pixels; p += 32) top = fmaxf(top, column[u64(p) * u32(n)]);
    for (int d = 1; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    for (int p = lane; p < pixels; p += 32) sum += column[u64(p) * u32(n)] = expf(column[u64(p) * u32(n)] - top);
    for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    for (int p = lane; p < pixels; p += 32) column[u64(p) * u32(n)] /= sum;
}

// pooled[batch, N, 256] = Σ_p s·x_p: a thread for each number. Grid (N, batch).
template <class E>
__device__ __forceinline__ void naive_pool(const E *x, const float *scores, float *pooled, int pixels) {
    const int channel = int(threadIdx.x), image = int(blockIdx.y), row = int(blockIdx.x), n = int(gridDim.x);
    float sum = 0;
    for (int begin = 0; begin < pixels; begin += NAIVE_TERMS) {
        const int end = begin + NAIVE_TERMS < pixels ? begin + NAIVE_TERMS : pixels;
        float part = 0;
        for (int p = begin; p < end; p++) {
            const u64 token = u64(image) * u32(pixels) + u32(p);
            part = fmaf(scores[token * u32(n) + u32(row)], widen(x[token * 256 + u32(channel)]), part);
        }
        sum += part;
    }
    pooled[(u64(image) * u32(n) + u32(row)) * 256 + u32(channel)] = sum;
}

}  // namespace segface::token_attention
