// The product of gemm/forward.cuh with whole rows of up to 1024 columns in one block, for epilogues that norm a row.
//
// 16 or 32 rows × all n columns, up to 16 warps side by side. Rows go through shared memory as everywhere. Weights do not: no two
// warps need the same, so each reads its own, in the order in which they are packed, from the second cache to registers.
// A fragment's registers are filled for the next step as soon as they have been used. Every block reads all weights once:
// 2·ROWS FLOPs per weight, so 32 rows keep up with the second cache and 16 are for few rows, to keep a card busy.
#pragma once
#include "gemm/forward.cuh"

namespace segface::gemm {

// The lane's fragments of a packed block in global memory, where two steps of k make one.
template <class P>
__device__ __forceinline__ void load_packed(typename Mma<P>::B (&b)[2], const u8 *block) {
    const Chunk c = load_chunk(block + lane_id() * 16);
    b[0] = {{c.word[0], c.word[1]}};
    b[1] = {{c.word[2], c.word[3]}};
}

// The lane's fragment of one step of k, in f32.
__device__ __forceinline__ Mma<Single>::B load_packed_step(const u8 *block, int step) {
    const u8 *at = block + (step * PACK_COLUMNS + 2 * (lane_id() & 3)) * 16;
    return {{load_chunk(at), load_chunk(at + 16)}};
}

template <class S>
constexpr int wide_bytes(int finish) {
    return S::STAGES * S::A_BYTES > finish ? S::STAGES * S::A_BYTES : finish;
}

// S::COLUMNS are all N columns of the weights or, rounded up to whole warps, a few more.
template <class S, int N, class Source>
__device__ __forceinline__ void wide_product(typename S::Sums &sums, Source &source, const u8 *weights, int k, u32 buffer) {
    using P = typename S::P;
    using M = Mma<P>;
    // Fragments of f32 for a whole block of weights would fill the registers; those are read when they are needed.
    constexpr bool AHEAD = M::PACK_STEPS == 2;
    constexpr int BLOCKS_N = N / PACK_COLUMNS;
    const int steps = ceil_divide(k, S::K), blocks_k = ceil_divide(k, PACK_K<P>);
    const int warp = int(threadIdx.x) / 32, row = warp % S::WARPS_M * S::WARP_ROWS, column_block = warp / S::WARPS_M * S::N_ATOMS;
    prepare_rows<S>(source);
    clear(sums);
    auto start = [&](int step) {
        if (step < steps) {
            const typename S::ATile tile{buffer + u32(step % S::STAGES) * S::A_BYTES};
            copy_rows<S>(source, tile, step * S::K);
        }
        commit_copies();
    };
#pragma unroll
    for (int step = 0; step < S::STAGES - 1; step++) start(step);

    // Blocks past the last column are read from the last one; their sums are not stored. Where there are none, the blocks of a warp lie
    // at constant distances: one address instead of one for each, which would spill.
    const auto weight_block = [&](int block_k, int n) {
        const int block = S::COLUMNS == N || column_block + n < BLOCKS_N ? column_block + n : BLOCKS_N - 1;
        return weights + u64(block_k * BLOCKS_N + block) * PACK_BYTES;
    };
    typename M::B weight[AHEAD ? S::N_ATOMS : 1][M::PACK_STEPS];
    if constexpr (AHEAD) {
#pragma unroll
        for (int n = 0; n < S::N_ATOMS; n++) load_packed<P>(weight[n], weight_block(0, n));
    }
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        const typename S::ATile tile{buffer + u32(step % S::STAGES) * S::A_BYTES};
        wait_copies<S::STAGES - 2>();
        transform_rows<S>(source, tile, step * S::K);
        __syncthreads();
        start(step + S::STAGES - 1);
        // In f32 one after the other: unrolled, addresses and fragments of both would spill.
#pragma unroll(AHEAD ? S::PACKS : 1)
        for (int pack = 0; pack < S::PACKS; pack++) {
            const int block_k = step * S::PACKS + pack;
            if (block_k >= blocks_k) break;
            typename M::A fragments[S::M_ATOMS][M::PACK_STEPS];
#pragma unroll
            for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                for (int s = 0; s < M::PACK_STEPS; s++) {
                    fragments[m][s] = M::load_a(tile, row + m * 16, pack * PACK_K<P> + s * M::K);
                }
            const int next = block_k + 1 < blocks_k ? block_k + 1 : block_k;
#pragma unroll
            for (int n = 0; n < S::N_ATOMS; n++) {
                if constexpr (AHEAD) {
#pragma unroll
                    for (int s = 0; s < M::PACK_STEPS; s++)
#pragma unroll
                        for (int m = 0; m < S::M_ATOMS; m++) M::multiply(sums[m][n], fragments[m][s], weight[n][s]);
                    load_packed<P>(weight[n], weight_block(next, n));
                } else {
                    // Step by step, as `multiply_pack` sums: the fragments of all steps at once would spill.
                    float part[S::M_ATOMS][4] = {};
#pragma unroll
                    for (int s = 0; s < M::PACK_STEPS; s++) {
                        const auto b = load_packed_step(weight_block(block_k, n), s);
#pragma unroll
                        for (int m = 0; m < S::M_ATOMS; m++) M::multiply(part[m], fragments[m][s], b);
                    }
#pragma unroll
                    for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                        for (int i = 0; i < 4; i++) sums[m][n][i] += part[m][i];
                }
            }
        }
    }
    wait_copies<0>();
    __syncthreads();
}

template <class S, class Epi>
constexpr int bytes_wide() {
    return wide_bytes<S>(finish_bytes<S, Epi::NORM>());
}

// Grid (tiles of rows).
template <class S, int N, int K, class Source, class Epi>
__device__ __forceinline__ void forward_wide(Source &source, const u8 *weight, const Epi &epilogue, typename S::E *out, int rows) {
    static_assert(S::COLUMNS >= N, "a block holds whole rows");
    const u32 buffer = shared_address(shared_memory);
    const int row0 = int(blockIdx.x) * S::ROWS;
    source.row0 = row0;
    source.rows = rows;
    typename S::Sums sums;
    wide_product<S, N>(sums, source, weight, K, buffer);
    finish<S>(sums, epilogue, out, row0, rows, 0, N, buffer, [](int row) { return row; });
}

}  // namespace segface::gemm
