// Sums over the pixels of each image, per channel, in one launch and in an order that does not depend on which block runs
// first.
//
// A block holds GROUP channels of one image and some of its pixels. Its threads' sums meet in shared memory, the block's sums go
// to a workspace, and the last block of the image and group (an atomic counter tells it) adds those up, block by block.
#pragma once
#include "cuda/grid.cuh"

namespace segface {

// Bytes of shared memory: `threads` threads with a chunk of `chunk` channels each.
constexpr int channel_sums_bytes(int threads, int chunk) { return threads * chunk * 4; }

// Thread (lane, pixel) of LANES × PIXELS threads (lane is the faster) holds `values`, the sums of its pixels in channels
// channel0 + lane · CHANNELS ... Block `block` of `blocks` writes its sums to partial[block, channels]; the last one to come
// writes sums[channels]. `partial` and `sums` are those of the image, `counter` that of the image and group; it is zero before
// and after. All threads of the block must call.
template <int LANES, int PIXELS, int CHANNELS>
__device__ __forceinline__ void sum_channels(const float (&values)[CHANNELS], int channel0, int channels, int block, int blocks,
                                             float *partial, float *sums, u32 *counter, float *buffer) {
    constexpr int GROUP = LANES * CHANNELS, THREADS = LANES * PIXELS;
    const int thread = int(threadIdx.x);
    if constexpr (CHANNELS % 4 == 0) {
        const u32 mine = shared_address(buffer) + u32(thread * CHANNELS) * 4;
#pragma unroll
        for (int v = 0; v < CHANNELS; v += 4) {
            store_shared(mine + u32(v) * 4, Chunk{{__float_as_uint(values[v]), __float_as_uint(values[v + 1]),
                                                   __float_as_uint(values[v + 2]), __float_as_uint(values[v + 3])}});
        }
    } else {
#pragma unroll
        for (int v = 0; v < CHANNELS; v++) buffer[thread * CHANNELS + v] = values[v];
    }
    __syncthreads();
    float *out = blocks == 1 ? sums : partial + u64(block) * u32(channels);
    for (int c = thread; c < GROUP; c += THREADS) {
        float sum = 0;
#pragma unroll
        for (int p = 0; p < PIXELS; p++) sum += buffer[p * GROUP + c];
        out[channel0 + c] = sum;
    }
    if (blocks == 1) return;
    if (!is_last(counter, blocks)) return;
    // A thread adds up every SLICES-th block's sums of a vector of channels.
    constexpr int WIDTH = CHANNELS % 4 == 0 ? 4 : 1, VECTORS = GROUP / WIDTH;
    constexpr int SLICES = THREADS >= VECTORS ? THREADS / VECTORS : 1;
    static_assert(SLICES * GROUP <= THREADS * CHANNELS, "slices fit the buffer");
    for (int i = thread; i < SLICES * VECTORS; i += THREADS) {
        const int slice = i / VECTORS, c = i % VECTORS * WIDTH;
        float sum[WIDTH];
#pragma unroll
        for (int v = 0; v < WIDTH; v++) sum[v] = 0.0f;
        const float *source = partial + channel0 + c;
#pragma unroll 8
        for (int b = slice; b < blocks; b += SLICES) {
            float values[WIDTH];
            load_floats_from_others(values, source + u64(b) * u32(channels));
#pragma unroll
            for (int v = 0; v < WIDTH; v++) sum[v] += values[v];
        }
#pragma unroll
        for (int v = 0; v < WIDTH; v++) buffer[slice * GROUP + c + v] = sum[v];
    }
    __syncthreads();
    for (int c = thread; c < GROUP; c += THREADS) {
        float sum = 0;
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++) sum += buffer[slice * GROUP + c];
        sums[channel0 + c] = sum;
    }
}

}  // namespace segface
