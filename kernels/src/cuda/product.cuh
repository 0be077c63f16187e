// The main loop of every large kernel: a tile of rows, gathered by a `Source`, times packed weights.
//
//     sums[ROWS, COLUMNS] = a[ROWS, k] · weights[n0 .. n0 + COLUMNS, k]ᵀ
//
// STAGES tiles of both operands are under way as asynchronous copies while one is multiplied. Rows are in swizzled tiles read
// by ldmatrix; weights are copied as they are packed and read by 16-byte loads: no bank conflict in either.
#pragma once
#include "cuda/mma.cuh"

namespace segface {

// ROWS × COLUMNS of the result by WARPS_M × WARPS_N warps; ROW_BYTES (64 or 128) of k per stage.
template <class P_, int ROWS_, int COLUMNS_, int WARPS_M_, int WARPS_N_, int ROW_BYTES, int STAGES_>
struct Shape {
    using P = P_;
    using E = typename P::Element;
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int K = ROW_BYTES / int(sizeof(E));
    static constexpr int M_ATOMS = ROWS / WARPS_M / 16, N_ATOMS = COLUMNS / WARPS_N / PACK_COLUMNS;
    static constexpr int WARP_ROWS = ROWS / WARPS_M, WARP_COLUMNS = COLUMNS / WARPS_N;
    static constexpr int ROW_CHUNKS = ROW_BYTES / 16;
    // Rows that a thread copies in a stage: `SLOTS` of them, `THREADS / ROW_CHUNKS` apart.
    static constexpr int ROW_STEP = THREADS / ROW_CHUNKS;
    static constexpr int SLOTS = ceil_divide(ROWS, ROW_STEP);
    static constexpr int PACKS = K / PACK_K<P>;
    static constexpr int A_BYTES = ROWS * ROW_BYTES;
    static constexpr int B_BYTES = PACKS * (COLUMNS / PACK_COLUMNS) * PACK_BYTES;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
    static constexpr int BYTES = STAGES * STAGE_BYTES;
    using ATile = Tile<E, K>;
    using Sums = float[M_ATOMS][N_ATOMS][4];
    static_assert(M_ATOMS * 16 * WARPS_M == ROWS && N_ATOMS * PACK_COLUMNS * WARPS_N == COLUMNS, "warps divide the tile");
};

// A source of rows. The loop below calls, for each of the thread's slots i (row `row(i)` of the tile):
//   prepare(i, row)          once; `row` is the number in the tile
//   copy(i, target, k)       per stage: starts the copy of the chunk at column k, zeros where there is nothing
//   TRANSFORMS, transform(i, chunk, k): what becomes of the numbers once they have landed
// Rows past the end and columns past the matrix are the source's to fill with zeros. A source may as well load and store into
// the tile itself: barriers lie between that and the first read.

// This thread's rows of a tile and its chunk of each: `of(i, row, chunk)` for every slot.
template <class S, class Slot>
__device__ __forceinline__ void for_each_slot(Slot of) {
    const int thread = int(threadIdx.x), chunk = thread % S::ROW_CHUNKS, first_row = thread / S::ROW_CHUNKS;
#pragma unroll
    for (int i = 0; i < S::SLOTS; i++) {
        const int row = first_row + i * S::ROW_STEP;
        if (S::ROWS % S::ROW_STEP == 0 || row < S::ROWS) of(i, row, chunk);
    }
}

// Names the thread's rows to the source, also those past the tile: a source may reduce over lanes.
template <class S, class Source>
__device__ __forceinline__ void prepare_rows(Source &source) {
#pragma unroll
    for (int i = 0; i < S::SLOTS; i++) source.prepare(i, int(threadIdx.x) / S::ROW_CHUNKS + i * S::ROW_STEP);
}

// Starts the copies of a stage whose first column is k.
template <class S, class Source, class T>
__device__ __forceinline__ void copy_rows(Source &source, const T &tile, int k) {
    for_each_slot<S>([&](int i, int row, int chunk) { source.copy(i, tile.address(row, chunk), k + chunk * CHUNK<typename S::E>); });
}

// What the source makes of a stage that has landed. A thread sees its own copies without a barrier.
template <class S, class Source, class T>
__device__ __forceinline__ void transform_rows(Source &source, const T &tile, int k) {
    if constexpr (Source::TRANSFORMS) {
        for_each_slot<S>([&](int i, int row, int chunk) {
            const u32 address = tile.address(row, chunk);
            Chunk numbers = load_shared(address);
            source.transform(i, numbers, k + chunk * CHUNK<typename S::E>);
            store_shared(address, numbers);
        });
    }
}

template <int M_ATOMS, int N_ATOMS>
__device__ __forceinline__ void clear(float (&sums)[M_ATOMS][N_ATOMS][4]) {
#pragma unroll
    for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
        for (int n = 0; n < N_ATOMS; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
}

template <class S, class Source>
struct Product {
    using P = typename S::P;
    using M = Mma<P>;

    // Columns n_begin .. n_begin + COLUMNS of weights that have `columns` (a multiple of 8) and k padded to whole blocks.
    static __device__ __forceinline__ void run(typename S::Sums &sums, Source &source, const u8 *weights, int k, int columns,
                                               int n_begin, u32 buffer) {
        const int block_begin = n_begin / PACK_COLUMNS;
        run_blocks(sums, source, weights, k, columns / PACK_COLUMNS, [=](int block) { return block_begin + block; }, buffer);
    }

    // As `run`; `block_of(i)` is which 8 columns of the weights, in units of 8, are columns 8·i .. 8·i + 8 of the tile.
    template <class Blocks>
    static __device__ __forceinline__ void run_blocks(typename S::Sums &sums, Source &source, const u8 *weights, int k, int blocks_n,
                                                      Blocks block_of, u32 buffer) {
        const int thread = int(threadIdx.x);
        const int blocks_k = ceil_divide(k, PACK_K<P>);
        const int steps = ceil_divide(k, S::K);
        prepare_rows<S>(source);
        clear(sums);

        // The chunks of weights that this thread copies: where they are in the first stage; each stage is one stride further.
        constexpr int B_CHUNKS = S::B_BYTES / 16, RUN = S::COLUMNS / PACK_COLUMNS * (PACK_BYTES / 16);
        constexpr int B_SLOTS = ceil_divide(B_CHUNKS, S::THREADS);
        u32 weight_offset[B_SLOTS];
        bool weight_there[B_SLOTS];
#pragma unroll
        for (int i = 0; i < B_SLOTS; i++) {
            const int chunk = thread + i * S::THREADS, pack = chunk / RUN, at = chunk % RUN;
            const int block = block_of(at / (PACK_BYTES / 16));
            weight_there[i] = chunk < B_CHUNKS && block < blocks_n;
            weight_offset[i] = u32(pack * blocks_n + block) * PACK_BYTES + u32(at % (PACK_BYTES / 16)) * 16;
        }
        const u64 weight_stride = u64(S::PACKS * blocks_n) * PACK_BYTES;

        int started = 0, started_stage = 0;
        const u8 *stage_weights = weights;
        auto start = [&] {
            if (started < steps) {
                const u32 a = buffer + u32(started_stage) * S::STAGE_BYTES, b = a + S::A_BYTES;
                const typename S::ATile tile{a};
                copy_rows<S>(source, tile, started * S::K);
#pragma unroll
                for (int i = 0; i < B_SLOTS; i++) {
                    const int chunk = thread + i * S::THREADS;
                    if (B_CHUNKS % S::THREADS == 0 || chunk < B_CHUNKS) {
                        bool there = weight_there[i];
                        if constexpr (S::PACKS > 1) there = there && started * S::PACKS + chunk / RUN < blocks_k;
                        copy_async(b + u32(chunk) * 16, stage_weights + (there ? weight_offset[i] : 0), there ? 16 : 0);
                    }
                }
                stage_weights += weight_stride;
            }
            commit_copies();
            started++;
            started_stage = started_stage + 1 == S::STAGES ? 0 : started_stage + 1;
        };
#pragma unroll
        for (int step = 0; step < S::STAGES - 1; step++) start();

        const int warp = thread / 32, row = warp % S::WARPS_M * S::WARP_ROWS, column_block = warp / S::WARPS_M * S::N_ATOMS;
        int stage = 0;
        // Not unrolled: a known k would make one long piece of code of it, with registers for the addresses of every step.
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            const u32 a = buffer + u32(stage) * S::STAGE_BYTES, b = a + S::A_BYTES;
            stage = stage + 1 == S::STAGES ? 0 : stage + 1;
            const typename S::ATile tile{a};
            wait_copies<S::STAGES - 2>();
            transform_rows<S>(source, tile, step * S::K);
            __syncthreads();
            start();
#pragma unroll
            for (int pack = 0; pack < S::PACKS; pack++) {
                typename M::A fragments[S::M_ATOMS][M::PACK_STEPS];
#pragma unroll
                for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                    for (int s = 0; s < M::PACK_STEPS; s++) {
                        fragments[m][s] = M::load_a(tile, row + m * 16, pack * PACK_K<P> + s * M::K);
                    }
#pragma unroll
                for (int n = 0; n < S::N_ATOMS; n++) {
                    typename M::B weight[M::PACK_STEPS];
                    M::load_b_packed(weight, b + u32(pack * (S::COLUMNS / PACK_COLUMNS) + column_block + n) * PACK_BYTES);
                    if constexpr (M::SUMS_PACKS) {
#pragma unroll
                        for (int m = 0; m < S::M_ATOMS; m++) M::multiply_pack(sums[m][n], fragments[m], weight);
                    } else {
#pragma unroll
                        for (int s = 0; s < M::PACK_STEPS; s++)
#pragma unroll
                            for (int m = 0; m < S::M_ATOMS; m++) M::multiply(sums[m][n], fragments[m][s], weight[s]);
                    }
                }
            }
        }
        // What follows may use the buffer.
        wait_copies<0>();
        __syncthreads();
    }
};

}  // namespace segface
