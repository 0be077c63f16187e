// Gradients of a dense convolution                                       (`segface_kernels::conv::backward`).
//
//     d_x[b, iy, ix, c] (+)= Σ_{i, j, o} d_out[b, (iy + p − i)/s, (ix + p − j)/s, o] · weight[o, (i·KERNEL + j)·C + c]
//
// over the taps for which the divisions leave no rest. Input pixels of one remainder (mod s, both ways) see the same taps, so each such
// phase is a convolution of stride 1 of d_out: gathered rows times a packed matrix, the main loop of every product. FLOPs as forward.
// The weight's gradient is `gemm::weight_gradient` with rows gathered from windows.
#pragma once
#include "conv/forward.cuh"
#include "gemm/backward.cuh"

namespace segface::conv {

// Taps of an axis that reach input pixels of remainder AT.
template <int KERNEL, int STRIDE, int PADDING, int AT>
struct Reach {
    static constexpr int FIRST = (AT + PADDING) % STRIDE;
    static constexpr int TAPS = FIRST < KERNEL ? (KERNEL - FIRST + STRIDE - 1) / STRIDE : 0;
    // Tap a of the phase is tap FIRST + a·STRIDE of the kernel and reads pixel y + OFFSET − a of d_out.
    static constexpr int OFFSET = (AT + PADDING) / STRIDE;
    static __device__ __forceinline__ int size(int side) { return (side - AT + STRIDE - 1) / STRIDE; }
};

// Rows of the product: input pixels of one phase. C and O as in the forward pass.
template <class S, int C, int O, int KERNEL, int STRIDE, int PADDING, int AT_Y, int AT_X>
struct Phase {
    using E = typename S::E;
    using Y = Reach<KERNEL, STRIDE, PADDING, AT_Y>;
    using X = Reach<KERNEL, STRIDE, PADDING, AT_X>;
    static constexpr bool TRANSFORMS = false;
    static constexpr int TAPS = Y::TAPS * X::TAPS, K = TAPS * O;
    static_assert(O % CHUNK<E> == 0 && TAPS > 0 && TAPS <= 32, "whole chunks; a bit for each tap");
    const E *d_out;
    Map map;
    int row0, rows;
    const E *corner[S::SLOTS];
    u32 inside[S::SLOTS];

    __device__ __forceinline__ void pixel(int row, int &image, int &y, int &x) const {
        const int columns = X::size(map.width), lines = Y::size(map.height), line = row / columns;
        image = line / lines, y = line - image * lines, x = row - line * columns;
    }
    __device__ __forceinline__ void prepare(int i, int r) {
        int image, y, x;
        pixel(row0 + r, image, y, x);
        y += Y::OFFSET, x += X::OFFSET;
        corner[i] = d_out + ((long long)(image * map.out_height + y) * map.out_width + x) * O;
        inside[i] = 0;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) {
            const bool there = u32(y - tap / X::TAPS) < u32(map.out_height) && u32(x - tap % X::TAPS) < u32(map.out_width);
            inside[i] |= u32(row0 + r < rows && there) << tap;
        }
    }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        const int tap = k / O, dy = tap / X::TAPS, dx = tap - dy * X::TAPS;
        const int offset = (dy * map.out_width + dx) * O - (k - tap * O);
        const u32 there = K % S::K == 0 || k < K ? inside[i] >> tap & 1 : 0;
        const E *source = corner[i] - offset;
        copy_async(target, there ? source : d_out, int(there) * 16);
    }
    // Where in d_x a row goes.
    __device__ __forceinline__ int place(int row) const {
        int image, y, x;
        pixel(row, image, y, x);
        return (image * map.height + y * STRIDE + AT_Y) * map.width + x * STRIDE + AT_X;
    }
};

// The gradient of the data at the pixels of one phase. Grid and shared memory of `gemm::forward`.
template <class S, int C, class Source, class Epi>
__device__ __forceinline__ void input(Source &source, const u8 *weight, const Epi &epilogue, typename S::E *d_x, int rows) {
    const u32 buffer = shared_address(shared_memory);
    const int row0 = int(blockIdx.x) * S::ROWS, n0 = int(blockIdx.y) * S::COLUMNS;
    source.row0 = row0;
    source.rows = rows;
    typename S::Sums sums;
    Product<S, Source>::run(sums, source, weight, Source::K, C, n0, buffer);
    finish<S>(sums, epilogue, d_x, row0, rows, n0, C, buffer, [&](int row) { return source.place(row); });
}

// The phase's weight, to be packed: row c, column (a·X::TAPS + b)·O + o.
template <int C, int O, int KERNEL, int STRIDE, int PADDING, int AT_Y, int AT_X>
struct PhaseWeight {
    using Y = Reach<KERNEL, STRIDE, PADDING, AT_Y>;
    using X = Reach<KERNEL, STRIDE, PADDING, AT_X>;
    const float *weight;
    __device__ __forceinline__ float at(int c, int k) const {
        const int tap = k / O, o = k - tap * O, a = tap / X::TAPS, b = tap - a * X::TAPS;
        const int i = Y::FIRST + a * STRIDE, j = X::FIRST + b * STRIDE;
        return weight[(u64(o) * (KERNEL * KERNEL) + u32(i * KERNEL + j)) * C + c];
    }
};

// Rows of x for `gemm::weight_gradient`: the windows of output pixels. Four numbers of k lie in one tap where C is whole chunks.
template <int C, int KERNEL, int STRIDE, int PADDING>
struct WindowColumns {
    static constexpr int K = KERNEL * KERNEL * C;
    const float *x;
    Map map;
    __device__ __forceinline__ void copy(u32 target, int m, int k, bool there) const {
        const int line = m / map.out_width, image = line / map.out_height;
        const int top = (line - image * map.out_height) * STRIDE - PADDING, left = (m - line * map.out_width) * STRIDE - PADDING;
        const float *begin = x + u64(there ? image : 0) * u32(map.height) * u32(map.width) * C;
        if constexpr (C % 4 == 0) {
            const int tap = k / C, y = top + tap / KERNEL, column = left + tap % KERNEL;
            there = there && k < K && u32(y) < u32(map.height) && u32(column) < u32(map.width);
            copy_async(target, there ? begin + (u64(y) * u32(map.width) + u32(column)) * C + (k - tap * C) : x, there ? 16 : 0);
        } else {
            Chunk chunk = zero_chunk();
#pragma unroll
            for (int v = 0; v < 4; v++) {
                const int at = k + v, tap = at / C, y = top + tap / KERNEL, column = left + tap % KERNEL;
                if (there && at < K && u32(y) < u32(map.height) && u32(column) < u32(map.width)) {
                    chunk.word[v] = __float_as_uint(begin[(u64(y) * u32(map.width) + u32(column)) * C + (at - tap * C)]);
                }
            }
            store_shared(target, chunk);
        }
    }
};

}  // namespace segface::conv
