// Four neighbours become one pixel of a map of half the size:
//
//     out[b, y, x] = W · g,  g = in[b, 2y, 2x] ‖ in[b, 2y+1, 2x] ‖ in[b, 2y, 2x+1] ‖ in[b, 2y+1, 2x+1], zeros outside the map
//
// (`segface_kernels::patch_merge::PatchMergeSpec`). in [batch, height, width, CHANNELS], W packed [2·CHANNELS, 4·CHANNELS], out
// [batch, ⌈height/2⌉, ⌈width/2⌉, 2·CHANNELS]. A product (gemm) whose rows are gathered: the norm before it (Swin V1) is
// gemm::NormedRows<S, 4·CHANNELS, PatchRows>, the norm after it (V2) the epilogue's. FLOPs 16·CHANNELS² per output pixel.
#pragma once
#include "gemm/wide.cuh"

namespace segface::patch_merge {

template <class S, int CHANNELS>
struct PatchRows {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    const E *x;
    int height, width;
    int row0, rows;
    // The pixel (2y, 2x); whether there is one below, and to the right.
    const E *corner[S::SLOTS];
    bool there[S::SLOTS], down[S::SLOTS], right[S::SLOTS];

    PatchRows() = default;
    __device__ __forceinline__ PatchRows(const E *x, int height, int width) : x(x), height(height), width(width) {}
    __device__ __forceinline__ void prepare(int i, int r) {
        there[i] = row0 + r < rows;
        const int row = there[i] ? row0 + r : 0, columns = (width + 1) / 2, lines = (height + 1) / 2;
        const int left = row % columns * 2, line = row / columns % lines * 2, image = row / columns / lines;
        down[i] = line + 1 < height;
        right[i] = left + 1 < width;
        corner[i] = x + u64((image * height + line) * width + left) * CHANNELS;
    }
    __device__ __forceinline__ const E *at(int i, int k) const {
        const int part = k / CHANNELS, below = part % 2, beside = part / 2;
        const bool inside = there[i] && k < 4 * CHANNELS && (!below || down[i]) && (!beside || right[i]);
        return inside ? corner[i] + (below ? u64(width) * CHANNELS : 0) + beside * CHANNELS + k % CHANNELS : nullptr;
    }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        // Zeros have an address too: the corner is one that exists, and at hand.
        const E *source = at(i, k);
        copy_async(target, source ? source : corner[i], source ? 16 : 0);
    }
};

// The gather alone, [batch, ⌈height/2⌉, ⌈width/2⌉, 4·CHANNELS], a chunk per thread: grid (rows · chunks of 4·CHANNELS / 256).
constexpr int GATHER_THREADS = 256;
template <class E, int CHANNELS>
__device__ __forceinline__ void gather(const E *x, E *out, int rows, int height, int width) {
    constexpr int CHUNKS = 4 * CHANNELS / CHUNK<E>;
    const u64 i = u64(blockIdx.x) * GATHER_THREADS + threadIdx.x;
    const int row = int(i / CHUNKS), k = int(i % CHUNKS) * CHUNK<E>;
    if (row >= rows) return;
    const int columns = (width + 1) / 2, lines = (height + 1) / 2, part = k / CHANNELS;
    const int left = row % columns * 2 + part / 2, line = row / columns % lines * 2 + part % 2, image = row / columns / lines;
    const bool inside = line < height && left < width;
    store_chunk(out + i * CHUNK<E>,
                inside ? load_chunk(x + u64((image * height + line) * width + left) * CHANNELS + k % CHANNELS) : zero_chunk());
}

}  // namespace segface::patch_merge
