// The un-fused parts of window attention: cutting a map into windows and putting them together again
// (`WindowGatherSpec`, `WindowScatterSpec`). Attention itself is naive.cuh and tiled.cuh. These serve networks compiled without
// the fusing pass, and as a ladder to forward.cuh.
#pragma once
#include "cuda/memory.cuh"
#include "window_attention/geometry.cuh"

namespace segface::window_attention {

constexpr int MOVE_THREADS = 256;

// x [batch, height, width, CHANNELS] → out [batch·windows, AREA, CHANNELS]; `fill` [CHANNELS], or zeros if null, where the padded
// map has no token. A chunk per thread: grid (tokens · chunks / MOVE_THREADS).
template <class E, int CHANNELS, int WINDOW>
__device__ __forceinline__ void gather(const E *x, const float *fill, E *out, int batch, const Plan<WINDOW> &plan) {
    constexpr int CHUNKS = CHANNELS / CHUNK<E>;
    const u64 i = u64(blockIdx.x) * MOVE_THREADS + threadIdx.x;
    const int token = int(i / CHUNKS), c = int(i % CHUNKS) * CHUNK<E>;
    if (token >= batch * plan.windows() * plan.AREA) return;
    const int pixel = plan.pixel(token / plan.AREA, token % plan.AREA);
    Chunk chunk = zero_chunk();
    if (pixel >= 0) {
        chunk = load_chunk(x + u64(pixel) * CHANNELS + c);
    } else if (fill) {
        float values[CHUNK<E>];
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) values[v] = fill[c + v];
        chunk = pack<E>(values);
    }
    store_chunk(out + i * CHUNK<E>, chunk);
}

// x [batch·windows, AREA, CHANNELS] → out [batch, height, width, CHANNELS], padding dropped. Same grid.
template <class E, int CHANNELS, int WINDOW>
__device__ __forceinline__ void scatter(const E *x, E *out, int batch, const Plan<WINDOW> &plan) {
    constexpr int CHUNKS = CHANNELS / CHUNK<E>;
    const u64 i = u64(blockIdx.x) * MOVE_THREADS + threadIdx.x;
    const int token = int(i / CHUNKS), c = int(i % CHUNKS) * CHUNK<E>;
    if (token >= batch * plan.windows() * plan.AREA) return;
    const int pixel = plan.pixel(token / plan.AREA, token % plan.AREA);
    if (pixel >= 0) store_chunk(out + u64(pixel) * CHANNELS + c, load_chunk(x + i * CHUNK<E>));
}

}  // namespace segface::window_attention
