// A product whose first operand already lies in shared memory: only the packed weights are streamed.
//
//     sums[ROWS, 8·BLOCKS] = tile[ROWS, k] · weights[8·BLOCKS, k]ᵀ
//
// For chains of products whose middle never leaves the chip. STAGES buffers of one block of k each are under way.
#pragma once
#include "cuda/product.cuh"

namespace segface {

// ROWS × 8·BLOCKS of the result by WARPS_M × WARPS_N warps. BLOCKS need not divide by WARPS_N: the last warps have fewer.
template <class P_, int ROWS_, int BLOCKS_, int WARPS_M_, int WARPS_N_, int STAGES_>
struct Resident {
    using P = P_;
    using E = typename P::Element;
    using M = Mma<P>;
    static constexpr int ROWS = ROWS_, BLOCKS = BLOCKS_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int M_ATOMS = ROWS / WARPS_M / 16, N_ATOMS = ceil_divide(BLOCKS, WARPS_N), WARP_ROWS = ROWS / WARPS_M;
    static constexpr int STAGE_BYTES = BLOCKS * PACK_BYTES, BYTES = STAGES * STAGE_BYTES;
    using Sums = float[M_ATOMS][N_ATOMS][4];
    static_assert(M_ATOMS * 16 * WARPS_M == ROWS, "warps divide the rows");

    static __device__ __forceinline__ int warp_row() { return int(threadIdx.x) / 32 % WARPS_M * WARP_ROWS; }
    static __device__ __forceinline__ int warp_n() { return int(threadIdx.x) / 32 / WARPS_M; }
    static __device__ __forceinline__ int first_block() { return warp_n() * N_ATOMS; }
    // Whether atom n of this warp is a block of the result: the same for all lanes.
    static __device__ __forceinline__ bool has(int n) { return BLOCKS % WARPS_N == 0 || first_block() + n < BLOCKS; }

    // `row_blocks` blocks of weights lie side by side for one block of k (BLOCKS, or more where this is a part of a matrix).
    // All threads must be past their last use of `buffer`; the tile must be complete behind the barrier in here.
    template <class T>
    static __device__ __forceinline__ void run(Sums &sums, const T &tile, const u8 *weights, int k, int row_blocks, u32 buffer) {
        const int steps = ceil_divide(k, PACK_K<P>);
        clear(sums);
        auto start = [&](int step) {
            if (step < steps) {
                const u8 *source = weights + u64(step * row_blocks) * PACK_BYTES;
                const u32 target = buffer + u32(step % STAGES) * STAGE_BYTES;
                for (int i = int(threadIdx.x); i < STAGE_BYTES / 16; i += THREADS) copy_async(target + u32(i) * 16, source + i * 16);
            }
            commit_copies();
        };
#pragma unroll
        for (int step = 0; step < STAGES - 1; step++) start(step);
        for (int step = 0; step < steps; step++) {
            wait_copies<STAGES - 2>();
            __syncthreads();
            start(step + STAGES - 1);
            const u32 stage = buffer + u32(step % STAGES) * STAGE_BYTES;
            typename M::A fragments[M_ATOMS][M::PACK_STEPS];
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int s = 0; s < M::PACK_STEPS; s++) {
                    fragments[m][s] = M::load_a(tile, warp_row() + m * 16, step * PACK_K<P> + s * M::K);
                }
#pragma unroll
            for (int n = 0; n < N_ATOMS; n++) {
                if (!has(n)) continue;
                typename M::B weight[M::PACK_STEPS];
                M::load_b_packed(weight, stage + u32(first_block() + n) * PACK_BYTES);
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++) {
                    if constexpr (M::SUMS_PACKS) {
                        M::multiply_pack(sums[m][n], fragments[m], weight);
                    } else {
#pragma unroll
                        for (int s = 0; s < M::PACK_STEPS; s++) M::multiply(sums[m][n], fragments[m][s], weight[s]);
                    }
                }
            }
        }
        wait_copies<0>();
        __syncthreads();
    }
};

// Two neighbouring numbers of shared memory, f32.
__device__ __forceinline__ float2 load_pair(u32 address) {
    float2 x;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
    return x;
}
__device__ __forceinline__ void store_pair(u32 address, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}
__device__ __forceinline__ float load_number(u32 address) { return __uint_as_float(load_word(address)); }
__device__ __forceinline__ void store_number(u32 address, float x) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}

// Two neighbouring elements of a tile at an even column.
template <class E, int COLUMNS>
__device__ __forceinline__ float2 load_elements(const Tile<E, COLUMNS> &tile, int row, int column) {
    if constexpr (sizeof(E) == 2) {
        const u32 word = load_word(tile.element(row, column));
        return float2{widen(E{u16(word)}), widen(E{u16(word >> 16)})};
    } else {
        return load_pair(tile.element(row, column));
    }
}

}  // namespace segface
