// out[b, y, x, o] = epilogue(Σ_{i, j, c} in[b, y·s + i − p, x·s + j − p, c] · weight[o, (i·KERNEL + j)·C + c]), zero padding
// (`segface_kernels::conv::ConvSpec`).
//
// in [batch, height, width, C] and out [batch, out_height, out_width, O], weight packed, everything of `gemm::forward` holds:
// the product's rows are output pixels, its k are taps × channels, and the matrix of gathered rows exists only as the tile of a
// stage. FLOPs 2·rows·O·KERNEL²·C. A block reads its pixels' windows through the caches: each input row comes from memory about
// once, and KERNEL² / s² times from L2 or L1.
//
// The sources below are given to `gemm::forward<S, O, KERNEL * KERNEL * C>`.
#pragma once
#include "gemm/forward.cuh"

namespace segface::conv {

// Sizes that change with the image.
struct Map {
    int height, width, out_height, out_width;
};

// Windows of maps with whole chunks of channels: a chunk of k lies in one tap, and is copied as it is.
template <class S, int C, int KERNEL, int STRIDE, int PADDING>
struct Windows {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    static constexpr int K = KERNEL * KERNEL * C;
    static_assert(C % CHUNK<E> == 0 && KERNEL * KERNEL <= 32, "whole chunks; a bit for each tap");
    const E *x;
    Map map;
    int row0, rows;
    const E *corner[S::SLOTS];
    // Which taps lie inside the map. None does where there is no row.
    u32 inside[S::SLOTS];

    __device__ __forceinline__ void prepare(int i, int r) {
        const int row = row0 + r;
        const int line = row / map.out_width, image = line / map.out_height;
        const int top = (line - image * map.out_height) * STRIDE - PADDING;
        const int left = (row - line * map.out_width) * STRIDE - PADDING;
        corner[i] = x + ((long long)(image * map.height + top) * map.width + left) * C;
        inside[i] = 0;
#pragma unroll
        for (int tap = 0; tap < KERNEL * KERNEL; tap++) {
            const bool there = u32(top + tap / KERNEL) < u32(map.height) && u32(left + tap % KERNEL) < u32(map.width);
            inside[i] |= u32(row < rows && there) << tap;
        }
    }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        // All of this but the last two lines is the same for every slot.
        const int tap = k / C, dy = tap / KERNEL, dx = tap - dy * KERNEL;
        const int offset = (dy * map.width + dx) * C + (k - tap * C);
        const u32 there = K % S::K == 0 || k < K ? inside[i] >> tap & 1 : 0;
        const E *source = corner[i] + offset;
        copy_async(target, there ? source : x, int(there) * 16);
    }
};

__device__ __forceinline__ u32 load_bits(const f16 *source) {
    u16 x;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(x) : "l"(source));
    return x;
}
__device__ __forceinline__ u32 load_bits(const bf16 *source) {
    u16 x;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(x) : "l"(source));
    return x;
}
__device__ __forceinline__ u32 load_bits(const float *source) {
    u32 x;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(x) : "l"(source));
    return x;
}

// Windows of maps with few channels (images): a line of taps is KERNEL · C neighbours in memory, at no alignment. They are loaded
// one by one and stored into the tile. Padding left and right is a column out of 0 .. width · C.
template <class S, int C, int KERNEL, int STRIDE, int PADDING>
struct StemWindows {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    static constexpr int LINE = KERNEL * C, K = KERNEL * LINE;
    const E *x;
    Map map;
    int row0, rows;
    const E *image[S::SLOTS];
    int top[S::SLOTS], left[S::SLOTS];

    __device__ __forceinline__ void prepare(int i, int r) {
        const int row = row0 + r;
        const int line = row / map.out_width, number = line / map.out_height;
        image[i] = x + (long long)(row < rows ? number : 0) * map.height * map.width * C;
        // A row that is not there has its window above the map.
        top[i] = row < rows ? (line - number * map.out_height) * STRIDE - PADDING : -KERNEL;
        left[i] = ((row - line * map.out_width) * STRIDE - PADDING) * C;
    }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        constexpr int PER_WORD = 4 / int(sizeof(E));
        Chunk chunk;
#pragma unroll
        for (int word = 0; word < 4; word++) {
            chunk.word[word] = 0;
#pragma unroll
            for (int v = 0; v < PER_WORD; v++) {
                const int at = k + word * PER_WORD + v, dy = at / LINE;
                const int y = top[i] + dy, column = left[i] + (at - dy * LINE);
                const bool there = at < K && u32(y) < u32(map.height) && u32(column) < u32(map.width * C);
                const u32 bits = load_bits(there ? image[i] + (y * map.width * C + column) : x);
                chunk.word[word] |= (there ? bits : 0) << 16 * v;
            }
        }
        store_shared(target, chunk);
    }
};

}  // namespace segface::conv
