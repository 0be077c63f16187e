// Gradient of a product's weight, and weights packed on the card         (`segface_kernels::gemm::backward`, `segface_kernels::cuda::pack`).
//
//     d_weight[n, k] += Σ_m d_out[m, n] · x[m, k]
//
// d_out [rows, N], x rows of K numbers from a `Columns` source, all f32. The gradient of the data is a product by the weight packed the
// other way round: `gemm::forward`, `conv/backward.cuh`.
//
// A block makes ROWS × COLUMNS of the gradient from `part_rows` rows of both: STEP of them are a stage, which lies in shared memory as
// it lies in memory, n and k along the lines; STAGES − 1 stages are under way as asynchronous copies while one is multiplied. Parts are cut by shape
// alone and added in order: no atomics, the same bits every time. Grid (tiles of N, tiles of K, parts).
// FLOPs 2·rows·N·K. d_out is read once per tile of K, x once per tile of N.
#pragma once
#include "cuda/backward.cuh"
#include "cuda/mma.cuh"

namespace segface::gemm {

// Where x comes from: `copy(target, m, k)` starts the copy of four numbers at row m and column k into shared memory, zeros where there
// are none; m counts from the first row, and whoever calls sees to it that the rows exist.

// Rows as they lie in memory.
template <int K>
struct PlainColumns {
    const float *x;
    __device__ __forceinline__ void copy(u32 target, int m, int k, bool there) const {
        there = there && k < K;
        if constexpr (K % 4 == 0) copy_async(target, there ? x + u64(m) * K + k : x, there ? 16 : 0);
        else {
            Chunk chunk = zero_chunk();
#pragma unroll
            for (int v = 0; v < 4; v++) {
                if (there && k + v < K) chunk.word[v] = __float_as_uint(x[u64(m) * K + k + v]);
            }
            store_shared(target, chunk);
        }
    }
};

// A tile of ROWS × COLUMNS (64 or 128 each) by 256 threads.
template <class P_, int ROWS_, int COLUMNS_, int STEP_, int STAGES_>
struct WeightShape {
    using P = P_;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STEP = STEP_, STAGES = STAGES_, THREADS = 256;
    // Lines eight words longer than their numbers: lanes that read a fragment's columns from four lines meet different banks.
    static constexpr int A_LINE = ROWS + 8, B_LINE = COLUMNS + 8;
    static constexpr int STAGE_BYTES = STEP * (A_LINE + B_LINE) * 4, BYTES = STAGES * STAGE_BYTES;
};

// What a thread multiplies of a stage, and which sums it has. f32 by fused multiply-adds: thread (y, x) of 16 × 16 has groups of
// four rows and four columns, 64 apart.
template <class S, class P>
struct Accumulate;

template <class S>
struct Accumulate<S, Single> {
    static constexpr int M = S::ROWS / 64, N = S::COLUMNS / 64;
    float sums[M * 4][N * 4] = {};

    __device__ __forceinline__ void stage(u32 a, u32 b) {
        const int y = int(threadIdx.x) / 16, x = int(threadIdx.x) % 16;
#pragma unroll
        for (int m = 0; m < S::STEP; m++) {
            Chunk left[M], right[N];
#pragma unroll
            for (int i = 0; i < M; i++) left[i] = load_shared(a + u32(m * S::A_LINE + i * 64 + y * 4) * 4);
#pragma unroll
            for (int j = 0; j < N; j++) right[j] = load_shared(b + u32(m * S::B_LINE + j * 64 + x * 4) * 4);
#pragma unroll
            for (int i = 0; i < M * 4; i++)
#pragma unroll
                for (int j = 0; j < N * 4; j++) {
                    sums[i][j] = fmaf(__uint_as_float(left[i / 4].word[i % 4]), __uint_as_float(right[j / 4].word[j % 4]), sums[i][j]);
                }
        }
    }
    // `put(row, column, values)`: runs of four sums.
    template <class Put>
    __device__ __forceinline__ void each(Put put) const {
        const int y = int(threadIdx.x) / 16, x = int(threadIdx.x) % 16;
#pragma unroll
        for (int i = 0; i < M * 4; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float values[4] = {sums[i][4 * j], sums[i][4 * j + 1], sums[i][4 * j + 2], sums[i][4 * j + 3]};
                put((i / 4) * 64 + y * 4 + i % 4, j * 64 + x * 4, values);
            }
    }
};

// By tensor cores: 4 × 2 warps, fragments of both operands word by word from lines of k, rounded to tf32 on the way.
template <class S>
struct Accumulate<S, Tf32> {
    using M = Mma<Tf32>;
    static constexpr int M_ATOMS = S::ROWS / 4 / 16, N_ATOMS = S::COLUMNS / 2 / 8;
    float sums[M_ATOMS][N_ATOMS][4] = {};

    __device__ __forceinline__ void stage(u32 a, u32 b) {
        const int lane = lane_id(), g = lane >> 2, t = lane & 3, warp = int(threadIdx.x) / 32;
        const int row = warp % 4 * (S::ROWS / 4) + g, column = warp / 4 * (S::COLUMNS / 2) + g;
#pragma unroll
        for (int m = 0; m < S::STEP; m += M::K) {
            M::A left[M_ATOMS];
#pragma unroll
            for (int i = 0; i < M_ATOMS; i++) {
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    // Words 0, 1: rows g and g + 8 at line t; 2, 3: at line t + 4.
                    const u32 at = u32((m + t + w / 2 * 4) * S::A_LINE + row + i * 16 + w % 2 * 8) * 4;
                    left[i].r[w] = round_tf32(load_word(a + at));
                }
            }
#pragma unroll
            for (int n = 0; n < N_ATOMS; n++) {
                M::B right;
#pragma unroll
                for (int w = 0; w < 2; w++) right.r[w] = round_tf32(load_word(b + u32((m + t + w * 4) * S::B_LINE + column + n * 8) * 4));
#pragma unroll
                for (int i = 0; i < M_ATOMS; i++) M::multiply(sums[i][n], left[i], right);
            }
        }
    }
    template <class Put>
    __device__ __forceinline__ void each(Put put) const {
        const int lane = lane_id(), g = lane >> 2, t = lane & 3, warp = int(threadIdx.x) / 32;
#pragma unroll
        for (int i = 0; i < M_ATOMS; i++)
#pragma unroll
            for (int n = 0; n < N_ATOMS; n++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float values[2] = {sums[i][n][half * 2], sums[i][n][half * 2 + 1]};
                    put(warp % 4 * (S::ROWS / 4) + i * 16 + half * 8 + g, warp / 4 * (S::COLUMNS / 2) + n * 8 + 2 * t, values);
                }
    }
};

// Adds to `target` [N, K] where there is one part, else writes target[part][N][K].
template <class S, int N, int K, class Source>
__device__ __forceinline__ void weight_gradient(const Source &source, const float *d_out, float *target, int rows, int part_rows) {
    static_assert(N % 4 == 0, "whole chunks of d_out");
    const u32 buffer = shared_address(shared_memory);
    const int n0 = int(blockIdx.x) * S::ROWS, k0 = int(blockIdx.y) * S::COLUMNS, thread = int(threadIdx.x);
    const int begin = int(blockIdx.z) * part_rows, end = min(rows, begin + part_rows), steps = ceil_divide(end - begin, S::STEP);
    Accumulate<S, typename S::P> sums;

    int started = 0, stage = 0;
    auto start = [&](int slot) {
        if (started < steps) {
            const u32 a = buffer + u32(slot) * S::STAGE_BYTES, b = a + S::STEP * S::A_LINE * 4;
            const int first = begin + started * S::STEP;
            constexpr int A_CHUNKS = S::ROWS / 4, B_CHUNKS = S::COLUMNS / 4;
#pragma unroll
            for (int i = thread; i < S::STEP * A_CHUNKS; i += S::THREADS) {
                const int line = i / A_CHUNKS, n = i % A_CHUNKS * 4, m = first + line;
                const bool there = m < end && n0 + n < N;
                copy_async(a + u32(line * S::A_LINE + n) * 4, there ? d_out + u64(m) * N + n0 + n : d_out, there ? 16 : 0);
            }
#pragma unroll
            for (int i = thread; i < S::STEP * B_CHUNKS; i += S::THREADS) {
                const int line = i / B_CHUNKS, k = i % B_CHUNKS * 4, m = first + line;
                source.copy(b + u32(line * S::B_LINE + k) * 4, m, k0 + k, m < end);
            }
        }
        commit_copies();
        started++;
    };
#pragma unroll
    for (int i = 0; i < S::STAGES - 1; i++) start(i);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        wait_copies<S::STAGES - 2>();
        __syncthreads();
        start(stage == 0 ? S::STAGES - 1 : stage - 1);
        const u32 a = buffer + u32(stage) * S::STAGE_BYTES;
        sums.stage(a, a + S::STEP * S::A_LINE * 4);
        stage = stage + 1 == S::STAGES ? 0 : stage + 1;
    }
    wait_copies<0>();

    const bool alone = gridDim.z == 1;
    float *out = target + (alone ? 0 : u64(blockIdx.z) * (u64(N) * K));
    sums.each([&](int row, int column, const auto &values) {
        constexpr int WIDTH = int(sizeof(values) / sizeof(float));
        const int n = n0 + row, k = k0 + column;
        if (n >= N) return;
        float *at = out + u64(n) * K + k;
        if constexpr (K % WIDTH == 0) {
            if (k >= K) return;
            if constexpr (WIDTH == 4) {
                float4 value{values[0], values[1], values[2], values[3]};
                if (alone) {
                    const float4 before = *reinterpret_cast<const float4 *>(at);
                    value.x += before.x, value.y += before.y, value.z += before.z, value.w += before.w;
                }
                *reinterpret_cast<float4 *>(at) = value;
            } else {
                float2 value{values[0], values[1]};
                if (alone) {
                    const float2 before = *reinterpret_cast<const float2 *>(at);
                    value.x += before.x, value.y += before.y;
                }
                *reinterpret_cast<float2 *>(at) = value;
            }
        } else {
#pragma unroll
            for (int v = 0; v < WIDTH; v++) {
                if (k + v < K) at[v] = alone ? at[v] + values[v] : values[v];
            }
        }
    });
}

// Sources of packed weights: the number of row n and column k of the packed matrix.
struct AsIs {
    const float *weight;
    int columns;
    __device__ __forceinline__ float at(int n, int k) const { return weight[u64(n) * u32(columns) + k]; }
};
struct Turned {
    const float *weight;
    int columns;
    __device__ __forceinline__ float at(int n, int k) const { return weight[u64(k) * u32(columns) + n]; }
};

constexpr int PACK_THREADS = 256;

// `segface_kernels::cuda::pack` of f32: a thread makes 16 bytes. Grid (bytes / 16 / PACK_THREADS).
template <class P, class Source>
__device__ __forceinline__ void pack_weight(const Source &source, u8 *out, int n, int k) {
    static_assert(sizeof(typename P::Element) == 4, "weights of 16 bits are packed elsewhere");
    constexpr bool ROUNDED = PACK_K<P> == 16 && Mma<P>::K == 8;
    const u32 chunk = blockIdx.x * PACK_THREADS + threadIdx.x, block = chunk / 32, at = chunk % 32, blocks_n = u32(n + 7) / 8;
    if (block >= blocks_n * u32(ceil_divide(k, PACK_K<P>))) return;
    const int row0 = int(block % blocks_n) * 8, column0 = int(block / blocks_n) * PACK_K<P>;
    Chunk packed;
#pragma unroll
    for (int v = 0; v < 4; v++) {
        // tf32: lane 4g + t has row g, of each 8 columns numbers t and t + 4. f32: four columns of each row side by side.
        const int row = row0 + int(ROUNDED ? at / 4 : at % 8), column = column0 + int(ROUNDED ? v * 4 + at % 4 : at / 8 * 4 + v);
        const u32 bits = row < n && column < k ? __float_as_uint(source.at(row, column)) : 0u;
        packed.word[v] = ROUNDED ? round_tf32(bits) : bits;
    }
    store_chunk(out + u64(chunk) * 16, packed);
}

}  // namespace segface::gemm
