// out = epilogue(W2 · act(W1 · norm(x) + b1)) row by row                       (`segface_kernels::mlp::MlpSpec`)
//
// x, out [rows, CHANNELS], weights packed, W1 [HIDDEN, CHANNELS], W2 [CHANNELS, HIDDEN]. FLOPs 4·rows·CHANNELS·HIDDEN.
//
// Where channels are many this is two products (gemm) with the hidden values in memory between them. Where they are few those
// would cost more traffic than x and out, and one block makes all of it here: it norms its rows once, then takes SLAB hidden
// columns at a time, makes them, and multiplies them with their part of W2 into sums of all channels. Slabs of W1 and of W2 take
// turns in SLABS buffers, copied while others are multiplied. Grid (rows / ROWS). x is read once, out written once, weights are
// read once per block, from the second cache. x may be out, or the residual, or both.
#pragma once
#include "cuda/epilogue.cuh"

namespace segface::mlp {

template <class P_, int ROWS_, int CHANNELS_, int HIDDEN_, int SLAB_, int SLABS_, bool NORM_, Act ACT_>
struct Config {
    using P = P_;
    using E = typename P::Element;
    static constexpr int ROWS = ROWS_, CHANNELS = CHANNELS_, HIDDEN = HIDDEN_, SLAB = SLAB_, SLABS = SLABS_;
    static constexpr bool NORM = NORM_;
    static constexpr Act ACT = ACT_;
    static constexpr int WARPS_M = ROWS / 32, WARPS_N = 4, THREADS = 32 * WARPS_M * WARPS_N;
    // The sums of the second product, as `finish` knows them.
    struct S {
        using E = typename P::Element;
        static constexpr int ROWS = ROWS_, WARPS_M = ROWS_ / 32, WARPS_N = 4, WARP_ROWS = 32, WARP_COLUMNS = CHANNELS_ / 4;
        static constexpr int M_ATOMS = 2, N_ATOMS = WARP_COLUMNS / PACK_COLUMNS;
        using Sums = float[M_ATOMS][N_ATOMS][4];
    };
    // Rows of x as tiles of whole turns of the swizzle.
    using XTile = Tile<E, round_up(CHANNELS, 8 * CHUNK<E>)>;
    using HiddenTile = Tile<E, SLAB>;
    static constexpr int HIDDEN_ATOMS = SLAB / WARPS_N / PACK_COLUMNS;
    static constexpr int SLAB_BYTES = SLAB * CHANNELS * int(sizeof(E));
    static constexpr int X_BYTES = XTile::bytes(ROWS), HIDDEN_BYTES = HiddenTile::bytes(ROWS);
    static constexpr int LOOP_BYTES = X_BYTES + HIDDEN_BYTES + SLABS * SLAB_BYTES;
    static_assert(CHANNELS % 32 == 0 && HIDDEN % SLAB == 0 && SLAB % 32 == 0, "whole atoms for every warp");
};

template <class C, class Epi>
constexpr int bytes() {
    return C::LOOP_BYTES > finish_bytes<typename C::S, Epi::NORM>() ? C::LOOP_BYTES : finish_bytes<typename C::S, Epi::NORM>();
}

// Rows row0 .. row0 + ROWS, normed, into the tile; zeros past the last row. A warp takes a row at a time and holds it in registers.
template <class C>
__device__ __forceinline__ void load_rows(const typename C::XTile &tile, const typename C::E *x, const float *weight, const float *bias,
                                          float eps, int row0, int rows) {
    using E = typename C::E;
    constexpr int CHUNKS = C::CHANNELS / CHUNK<E>, PER_LANE = ceil_divide(CHUNKS, 32);
    const int lane = lane_id();
    for (int r = int(threadIdx.x) / 32; r < C::ROWS; r += C::THREADS / 32) {
        const bool there = row0 + r < rows;
        float values[PER_LANE][CHUNK<E>];
        float sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int c = lane + i * 32;
            unpack<E>(there && c < CHUNKS ? load_chunk(x + u64(row0 + r) * C::CHANNELS + c * CHUNK<E>) : zero_chunk(), values[i]);
#pragma unroll
            for (int v = 0; v < CHUNK<E>; v++) sum += values[i][v];
        }
        if constexpr (C::NORM) {
#pragma unroll
            for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
            const float mean = sum / float(C::CHANNELS);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
#pragma unroll
                for (int v = 0; v < CHUNK<E>; v++) {
                    const float d = lane + i * 32 < CHUNKS ? values[i][v] - mean : 0.0f;
                    squares = fmaf(d, d, squares);
                }
#pragma unroll
            for (int d = 1; d < 32; d *= 2) squares += __shfl_xor_sync(~0u, squares, d);
            const float scale = rsqrtf(squares / float(C::CHANNELS) + eps);
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int c = lane + i * 32;
                if (c >= CHUNKS || !there) continue;
#pragma unroll
                for (int v = 0; v < CHUNK<E>; v += 4) {
                    const Chunk w = load_chunk(weight + c * CHUNK<E> + v), b = load_chunk(bias + c * CHUNK<E> + v);
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        values[i][v + j] = (values[i][v + j] - mean) * scale * __uint_as_float(w.word[j]) + __uint_as_float(b.word[j]);
                    }
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            if (lane + i * 32 < CHUNKS) store_shared(tile.address(r, lane + i * 32), pack<E>(values[i]));
        }
    }
}

// sums[2][ATOMS] += rows of `a` at `row`, all K columns, times a slab whose blocks are [K / PACK_K][BLOCKS_N]; the warp's columns
// begin with block `block`.
template <class P, int K, int BLOCKS_N, int ATOMS, class T>
__device__ __forceinline__ void multiply_slab(float (&sums)[2][ATOMS][4], const T &a, int row, u32 slab, int block) {
    using M = Mma<P>;
    // f32 fragments are large.
#pragma unroll(M::PACK_STEPS == 2 ? 2 : 1)
    for (int pack = 0; pack < K / PACK_K<P>; pack++) {
        typename M::A fragments[2][M::PACK_STEPS];
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int s = 0; s < M::PACK_STEPS; s++) fragments[m][s] = M::load_a(a, row + m * 16, pack * PACK_K<P> + s * M::K);
#pragma unroll
        for (int n = 0; n < ATOMS; n++) {
            typename M::B weight[M::PACK_STEPS];
            M::load_b_packed(weight, slab + u32(pack * BLOCKS_N + block + n) * PACK_BYTES);
#pragma unroll
            for (int s = 0; s < M::PACK_STEPS; s++)
#pragma unroll
                for (int m = 0; m < 2; m++) M::multiply(sums[m][n], fragments[m][s], weight[s]);
        }
    }
}

template <class C, class Epi>
__device__ __forceinline__ void forward(const typename C::E *x, const float *norm_weight, const float *norm_bias, float eps,
                                        const u8 *weight1, const float *bias1, const u8 *weight2, const Epi &epilogue,
                                        typename C::E *out, int rows) {
    using P = typename C::P;
    using S = typename C::S;
    const u32 buffer = shared_address(shared_memory), slabs = buffer + C::X_BYTES + C::HIDDEN_BYTES;
    const typename C::XTile tile{buffer};
    const typename C::HiddenTile hidden_tile{buffer + C::X_BYTES};
    const int row0 = int(blockIdx.x) * C::ROWS, thread = int(threadIdx.x), warp = thread / 32;
    const int row = warp % C::WARPS_M * 32, warp_n = warp / C::WARPS_M;
    constexpr int TURNS = 2 * (C::HIDDEN / C::SLAB), SLAB_BLOCKS = C::SLAB / PACK_COLUMNS, OUT_BLOCKS = C::CHANNELS / PACK_COLUMNS;

    // Turn 2c is hidden columns c·SLAB .. of W1, turn 2c + 1 the same of W2's k.
    auto start = [&](int turn) {
        if (turn < TURNS) {
            const u32 slab = slabs + u32(turn % C::SLABS) * C::SLAB_BYTES;
            const int c = turn / 2;
            for (int i = thread; i < C::SLAB_BYTES / 16; i += C::THREADS) {
                constexpr int RUN = SLAB_BLOCKS * (PACK_BYTES / 16);
                const u8 *source = turn % 2 == 0 ? weight1 + u64(i / RUN * (C::HIDDEN / PACK_COLUMNS) + c * SLAB_BLOCKS) * PACK_BYTES +
                                                       u64(i % RUN) * 16
                                                 : weight2 + u64(c) * C::SLAB_BYTES + u64(i) * 16;
                copy_async(slab + u32(i) * 16, source);
            }
        }
        commit_copies();
    };
#pragma unroll
    for (int turn = 0; turn < C::SLABS - 1; turn++) start(turn);
    load_rows<C>(tile, x, norm_weight, norm_bias, eps, row0, rows);

    const int lane = lane_id(), g = lane >> 2, t = lane & 3;
    typename S::Sums sums = {};
#pragma unroll 1
    for (int c = 0; c < TURNS / 2; c++) {
        wait_copies<C::SLABS - 2>();
        // Rows and slab are there, and nobody reads the hidden tile or the slab before any more.
        __syncthreads();
        start(2 * c + C::SLABS - 1);
        float hidden[2][C::HIDDEN_ATOMS][4] = {};
        multiply_slab<P, C::CHANNELS, SLAB_BLOCKS>(hidden, tile, row, slabs + u32(2 * c % C::SLABS) * C::SLAB_BYTES,
                                                   warp_n * C::HIDDEN_ATOMS);
#pragma unroll
        for (int n = 0; n < C::HIDDEN_ATOMS; n++) {
            const int column = (warp_n * C::HIDDEN_ATOMS + n) * PACK_COLUMNS + 2 * t;
            const float2 bias = *reinterpret_cast<const float2 *>(bias1 + c * C::SLAB + column);
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    hidden_tile.store_pair(row + m * 16 + half * 8 + g, column, activate<C::ACT>(hidden[m][n][half * 2] + bias.x),
                                           activate<C::ACT>(hidden[m][n][half * 2 + 1] + bias.y));
                }
        }
        wait_copies<C::SLABS - 2>();
        __syncthreads();
        start(2 * c + C::SLABS);
        multiply_slab<P, C::SLAB, OUT_BLOCKS>(sums, hidden_tile, row, slabs + u32((2 * c + 1) % C::SLABS) * C::SLAB_BYTES,
                                              warp_n * S::N_ATOMS);
    }
    wait_copies<0>();
    __syncthreads();
    finish<S>(sums, epilogue, out, row0, rows, 0, C::CHANNELS, buffer, [](int r) { return r; });
}

}  // namespace segface::mlp
