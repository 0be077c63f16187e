// Cross-entropy and dice over all pixels of a micro-batch, and their gradient            (`segface_kernels::loss`).
//
//     loss = ½·mean(−log p[label]) + ½·mean_c(1 − (2Σ p·t + ε)/(Σ p² + Σ t² + ε)),  p = softmax(logits), ε = 1e-5
//
// logits, d_logits [pixels, CLASSES], labels one byte each, known to be classes. Three launches: `sums` leaves each block's sums, `merge`
// adds them up in f64 and makes of them the loss and what the gradient multiplies by, `gradient` computes p again.
// Bytes: logits twice, d_logits once.
#pragma once
#include "cuda/backward.cuh"

namespace segface::loss {

constexpr int THREADS = 256;

// Sums of a block: Σ p·t, Σ p², Σ t² of each class, then Σ −log p[label].
template <int CLASSES>
constexpr int SUMS = 3 * CLASSES + 1;

template <int CLASSES>
constexpr int bytes() {
    return THREADS * (CLASSES | 1) * 4 + THREADS * 4 + SUMS<CLASSES> * 4 * (THREADS / 32);
}

// Softmax of the block's pixels, a thread a pixel: p lies in shared memory behind it, an odd number of words a pixel. Returns
// −log p[label].
template <int CLASSES>
__device__ __forceinline__ float softmax(const float *logits, u64 first, u64 pixels, int label, float *p) {
    constexpr int ROW = CLASSES | 1;
    const u64 count = (pixels - first < THREADS ? pixels - first : THREADS) * CLASSES;
    for (u64 i = threadIdx.x; i < count; i += THREADS) p[i / CLASSES * ROW + i % CLASSES] = logits[first * CLASSES + i];
    __syncthreads();
    if (first + threadIdx.x >= pixels) return 0.0f;
    float *mine = p + threadIdx.x * ROW;
    float largest = mine[0], total = 0.0f;
#pragma unroll
    for (int c = 1; c < CLASSES; c++) largest = fmaxf(largest, mine[c]);
    const float own = largest - mine[label];
#pragma unroll
    for (int c = 0; c < CLASSES; c++) {
        const float power = expf(mine[c] - largest);
        total += power;
        mine[c] = power;
    }
    const float inverse = 1.0f / total;
#pragma unroll
    for (int c = 0; c < CLASSES; c++) mine[c] *= inverse;
    return own + logf(total);
}

// Grid (pixels / THREADS); partial[block][SUMS].
template <int CLASSES>
__device__ __forceinline__ void sums(const float *logits, const u8 *labels, float *partial, u64 pixels) {
    constexpr int ROW = CLASSES | 1, WARPS = THREADS / 32;
    float *p = reinterpret_cast<float *>(shared_memory);
    int *classes = reinterpret_cast<int *>(p + THREADS * ROW);
    float *warps = p + THREADS * ROW + THREADS;
    const u64 first = u64(blockIdx.x) * THREADS, pixel = first + threadIdx.x;
    const int label = pixel < pixels ? int(labels[pixel]) : -1, thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    classes[thread] = label;
    float own = softmax<CLASSES>(logits, first, pixels, label, p);
#pragma unroll
    for (int d = 1; d < 32; d *= 2) own += __shfl_xor_sync(~0u, own, d);
    if (lane == 0) warps[warp * SUMS<CLASSES> + 3 * CLASSES] = own;
    __syncthreads();
    // A warp adds up its own pixels' p, a lane a class.
    for (int c = lane; c < CLASSES; c += 32) {
        float hit = 0.0f, square = 0.0f, count = 0.0f;
        for (int i = 0; i < 32; i++) {
            const int which = classes[warp * 32 + i];
            if (which < 0) break;
            const float value = p[(warp * 32 + i) * ROW + c];
            square = fmaf(value, value, square);
            if (which == c) hit += value, count += 1.0f;
        }
        warps[warp * SUMS<CLASSES> + c] = hit;
        warps[warp * SUMS<CLASSES> + CLASSES + c] = square;
        warps[warp * SUMS<CLASSES> + 2 * CLASSES + c] = count;
    }
    __syncthreads();
    for (int i = thread; i < SUMS<CLASSES>; i += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += warps[w * SUMS<CLASSES> + i];
        partial[u64(blockIdx.x) * SUMS<CLASSES> + i] = sum;
    }
}

// One block. `loss` gets cross-entropy and dice; `factors` [2·CLASSES + 1] what a pixel's gradient takes.
template <int CLASSES>
__device__ __forceinline__ void merge(const float *partial, double *loss, float *factors, int blocks, u64 pixels,
                                      const StepData *step) {
    // Each sum by as many threads as there are, which take every so many-th block; their sums in order.
    constexpr int N = SUMS<CLASSES>, SLICES = THREADS / N > 0 ? THREADS / N : 1;
    __shared__ double slices[SLICES][N], totals[N], dice[CLASSES];
    for (int i = int(threadIdx.x); i < SLICES * N; i += THREADS) {
        double sum = 0.0;
        for (int block = i / N; block < blocks; block += SLICES) sum += double(partial[u64(block) * N + i % N]);
        slices[i / N][i % N] = sum;
    }
    __syncthreads();
    for (int i = int(threadIdx.x); i < N; i += THREADS) {
        double sum = 0.0;
        for (int slice = 0; slice < SLICES; slice++) sum += slices[slice][i];
        totals[i] = sum;
    }
    __syncthreads();
    const double factor = double(step->scale) * 0.5;
    for (int c = int(threadIdx.x); c < CLASSES; c += THREADS) {
        const double over = 2.0 * totals[c] + 1e-5, under = totals[CLASSES + c] + totals[2 * CLASSES + c] + 1e-5;
        dice[c] = 1.0 - over / under;
        factors[c] = float(factor * 2.0 * over / (under * under) / double(CLASSES));
        factors[CLASSES + c] = float(factor * 2.0 / under / double(CLASSES));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0.0;
        for (int c = 0; c < CLASSES; c++) sum += dice[c];
        loss[0] = totals[3 * CLASSES] / double(pixels);
        loss[1] = sum / double(CLASSES);
        factors[2 * CLASSES] = float(factor / double(pixels));
    }
}

// d_logits[c] = p[c]·(square[c]·p[c] − (Σ square·p² − hit·p[label]) + mean) − [c = label]·(hit·p[label] + mean). Grid as `sums`.
template <int CLASSES>
__device__ __forceinline__ void gradient(const float *logits, const u8 *labels, const float *factors, float *d_logits, u64 pixels) {
    constexpr int ROW = CLASSES | 1;
    float *p = reinterpret_cast<float *>(shared_memory);
    const u64 first = u64(blockIdx.x) * THREADS, pixel = first + threadIdx.x;
    const int label = pixel < pixels ? int(labels[pixel]) : -1;
    softmax<CLASSES>(logits, first, pixels, label, p);
    if (label >= 0) {
        float *mine = p + threadIdx.x * ROW;
        const float mean = factors[2 * CLASSES], own = mine[label] * factors[CLASSES + label];
        float along = -own;
#pragma unroll
        for (int c = 0; c < CLASSES; c++) along = fmaf(mine[c] * factors[c], mine[c], along);
#pragma unroll
        for (int c = 0; c < CLASSES; c++) {
            const float value = mine[c] * fmaf(mine[c], factors[c], mean - along);
            mine[c] = c == label ? value - (own + mean) : value;
        }
    }
    __syncthreads();
    const u64 count = (pixels - first < THREADS ? pixels - first : THREADS) * CLASSES;
    for (u64 i = threadIdx.x; i < count; i += THREADS) d_logits[first * CLASSES + i] = p[i / CLASSES * ROW + i % CLASSES];
}

}  // namespace segface::loss
