// From sums to stored values: bias → activation → scale → layer norm over the row → residual → activation
// (`segface_kernels::Epilogue`).
#pragma once
#include "cuda/activation.cuh"
#include "cuda/product.cuh"

namespace segface {

template <bool BIAS_, Act ACT_, bool SCALE_, bool NORM_, bool RESIDUAL_, Act AFTER_>
struct Epilogue {
    static constexpr bool BIAS = BIAS_, SCALE = SCALE_, NORM = NORM_, RESIDUAL = RESIDUAL_;
    static constexpr Act ACT = ACT_, AFTER = AFTER_;
    const float *bias, *scale, *norm_weight, *norm_bias;
    const void *residual;
    float eps;
};

// Bytes of shared memory that `finish` needs; it may lie where the main loop's buffer was.
template <class S, bool NORM>
constexpr int finish_bytes() {
    return S::WARPS_M * S::WARPS_N * 16 * (S::WARP_COLUMNS + 8) * 4 + (NORM ? S::ROWS * S::WARPS_N * 8 : 0);
}

// Numbers of a staged row. Of a 16-bit chunk's two halves every other group of four lanes reads the second first: eight lanes
// then read from different banks.
__device__ __forceinline__ void read_staged(float (&values)[8], u32 address, int lane) {
    const bool second_first = lane & 4;
    const Chunk first = load_shared(address + (second_first ? 16 : 0)), second = load_shared(address + (second_first ? 0 : 16));
#pragma unroll
    for (int j = 0; j < 4; j++) {
        values[j] = __uint_as_float(second_first ? second.word[j] : first.word[j]);
        values[4 + j] = __uint_as_float(second_first ? first.word[j] : second.word[j]);
    }
}
__device__ __forceinline__ void read_staged(float (&values)[4], u32 address, int) {
    const Chunk chunk = load_shared(address);
#pragma unroll
    for (int j = 0; j < 4; j++) values[j] = __uint_as_float(chunk.word[j]);
}

// Writes the tile whose first row and column are `row0`, `n0` of `out` [rows, n]. With a norm, the tile must hold all n columns.
// `place(row)` is where in `out` (and in the residual) a row of the product goes.
template <class S, class Epi, class Place>
__device__ __forceinline__ void finish(typename S::Sums &sums, const Epi &epilogue, typename S::E *out, int row0, int rows, int n0,
                                       int n, u32 buffer, Place place) {
    using E = typename S::E;
    const int lane = lane_id(), g = lane >> 2, t = lane & 3, warp = int(threadIdx.x) / 32;
    const int warp_m = warp % S::WARPS_M, warp_n = warp / S::WARPS_M;
    const int tile_row = warp_m * S::WARP_ROWS, tile_column = warp_n * S::WARP_COLUMNS;

#pragma unroll
    for (int a = 0; a < S::N_ATOMS; a++) {
        const int column = n0 + tile_column + a * 8 + 2 * t;
        if (column >= n) continue;
        const float2 bias = Epi::BIAS ? *reinterpret_cast<const float2 *>(epilogue.bias + column) : float2{0, 0};
        const float2 scale = Epi::SCALE ? *reinterpret_cast<const float2 *>(epilogue.scale + column) : float2{1, 1};
#pragma unroll
        for (int m = 0; m < S::M_ATOMS; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float value = sums[m][a][i];
                if constexpr (Epi::BIAS) value += i % 2 ? bias.y : bias.x;
                value = activate<Epi::ACT>(value);
                if constexpr (Epi::SCALE) value *= i % 2 ? scale.y : scale.x;
                sums[m][a][i] = value;
            }
        }
    }
    if constexpr (Epi::NORM) {
        // Mean first, then the squares of what is left: a large mean costs nothing.
        const u32 partials = buffer + S::WARPS_M * S::WARPS_N * 16 * (S::WARP_COLUMNS + 8) * 4;
        float mean[S::M_ATOMS][2], scale[S::M_ATOMS][2];
#pragma unroll
        for (int pass = 0; pass < 2; pass++) {
#pragma unroll
            for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float sum = 0;
#pragma unroll
                    for (int a = 0; a < S::N_ATOMS; a++)
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            if (tile_column + a * 8 + 2 * t >= n) continue;
                            const float value = sums[m][a][half * 2 + j];
                            const float d = pass == 0 ? value : value - mean[m][half];
                            sum += pass == 0 ? d : d * d;
                        }
                    sum += __shfl_xor_sync(~0u, sum, 1);
                    sum += __shfl_xor_sync(~0u, sum, 2);
                    const int r = tile_row + m * 16 + half * 8 + g;
                    if (t == 0) {
                        asm volatile("st.shared.f32 [%0], %1;" ::"r"(partials + u32((pass * S::WARPS_N + warp_n) * S::ROWS + r) * 4),
                                     "f"(sum)
                                     : "memory");
                    }
                }
            __syncthreads();
#pragma unroll
            for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int r = tile_row + m * 16 + half * 8 + g;
                    float sum = 0;
#pragma unroll
                    for (int w = 0; w < S::WARPS_N; w++) {
                        sum += __uint_as_float(load_word(partials + u32((pass * S::WARPS_N + w) * S::ROWS + r) * 4));
                    }
                    if (pass == 0) mean[m][half] = sum / float(n);
                    else scale[m][half] = rsqrtf(sum / float(n) + epilogue.eps);
                }
        }
#pragma unroll
        for (int a = 0; a < S::N_ATOMS; a++) {
            const int column = tile_column + a * 8 + 2 * t;
            if (column >= n) continue;
            const float2 weight = *reinterpret_cast<const float2 *>(epilogue.norm_weight + column);
            const float2 bias = *reinterpret_cast<const float2 *>(epilogue.norm_bias + column);
#pragma unroll
            for (int m = 0; m < S::M_ATOMS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float centred = sums[m][a][i] - mean[m][i / 2];
                    sums[m][a][i] = centred * scale[m][i / 2] * (i % 2 ? weight.y : weight.x) + (i % 2 ? bias.y : bias.x);
                }
        }
    }

    // Through shared memory, 16 rows at a time, so that global memory is read and written 16 bytes a lane.
    constexpr int STRIDE = S::WARP_COLUMNS + 8, LANES = S::WARP_COLUMNS / CHUNK<E>;
    const u32 staging = buffer + u32(warp * 16 * STRIDE) * 4;
#pragma unroll
    for (int m = 0; m < S::M_ATOMS; m++) {
#pragma unroll
        for (int a = 0; a < S::N_ATOMS; a++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(staging + u32((g + half * 8) * STRIDE + a * 8 + 2 * t) * 4),
                             "f"(sums[m][a][half * 2]), "f"(sums[m][a][half * 2 + 1])
                             : "memory");
            }
        __syncwarp();
#pragma unroll
        for (int i = lane; i < 16 * LANES; i += 32) {
            const int r = i / LANES, c = i % LANES * CHUNK<E>;
            const int row = row0 + tile_row + m * 16 + r, column = n0 + tile_column + c;
            if (row < rows && column < n) {
                float values[CHUNK<E>];
                read_staged(values, staging + u32(r * STRIDE + c) * 4, lane);
                const u64 at = u64(place(row)) * u32(n) + u32(column);
                if constexpr (Epi::RESIDUAL) {
                    float residual[CHUNK<E>];
                    unpack<E>(load_chunk(static_cast<const E *>(epilogue.residual) + at), residual);
#pragma unroll
                    for (int v = 0; v < CHUNK<E>; v++) values[v] += residual[v];
                }
#pragma unroll
                for (int v = 0; v < CHUNK<E>; v++) values[v] = activate<Epi::AFTER>(values[v]);
                store_chunk(out + at, pack<E>(values));
            }
        }
        __syncwarp();
    }
}

}  // namespace segface
