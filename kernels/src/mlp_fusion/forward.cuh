// F = b + Σ_i bilinear(M_i·x_i → size of x_0), align_corners = false         (`segface_kernels::mlp_fusion::MlpFusionSpec`)
//
// x_i [batch, h_i, w_i, C_i], M_i packed [WIDTH, C_i], F [batch, h_0, w_0, WIDTH]; sizes of taps are arbitrary. FLOPs Σ 2·pixels_i·C_i·WIDTH.
//
// Two launches. `project` multiplies the three coarse taps at their own resolution, a third of the fine tap's pixels in all:
// one grid, its blocks divided over the taps, the one with the longest sums first. `fuse` is the product of tap 0, whose
// epilogue adds bias and the bilinear samples of the three maps, in f32: F is written once and rounded once. The projected maps
// (5.5 MB at 512×512 in f16) are read from the second-level cache.
#pragma once
#include "cuda/epilogue.cuh"
#include "cuda/resident.cuh"
#include "gemm/forward.cuh"

namespace segface::mlp_fusion {

// A coarse tap.
struct Coarse {
    const void *x;
    const u8 *weight;
    void *projected;    // [batch, height, width, WIDTH]
    int height, width, channels;
};

// Rows whose length is a run-time argument.
template <class S>
struct Rows {
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    const E *x;
    int row0, rows, channels;
    const E *row[S::SLOTS];
    bool there[S::SLOTS];

    __device__ __forceinline__ void prepare(int i, int r) {
        there[i] = row0 + r < rows;
        row[i] = x + u64(there[i] ? row0 + r : 0) * u32(channels);
    }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        const bool inside = there[i] && k < channels;
        copy_async(target, inside ? row[i] + k : x, inside ? 16 : 0);
    }
};

using Plain = Epilogue<false, Act::Identity, false, false, false, Act::Identity>;

template <class S>
constexpr int project_bytes() {
    return S::BYTES > finish_bytes<S, false>() ? S::BYTES : finish_bytes<S, false>();
}

// Grid (tiles of rows of all three taps, tiles of columns).
template <class S, int WIDTH>
__device__ __forceinline__ void project(const Coarse &stride8, const Coarse &stride16, const Coarse &stride32, int batch) {
    using E = typename S::E;
    const u32 buffer = shared_address(shared_memory);
    // The coarsest map has most channels: its blocks take longest and start first.
    auto rows_of = [&](const Coarse &tap) { return batch * tap.height * tap.width; };
    auto tiles_of = [&](const Coarse &tap) { return (rows_of(tap) + S::ROWS - 1) / S::ROWS; };
    const int tiles32 = tiles_of(stride32), tiles16 = tiles_of(stride16);
    int tile = int(blockIdx.x);
    const Coarse tap = tile < tiles32 ? stride32 : tile < tiles32 + tiles16 ? stride16 : stride8;
    tile -= tile < tiles32 ? 0 : tile < tiles32 + tiles16 ? tiles32 : tiles32 + tiles16;
    const int rows = rows_of(tap), row0 = tile * S::ROWS, n0 = int(blockIdx.y) * S::COLUMNS;
    Rows<S> source;
    source.x = static_cast<const E *>(tap.x);
    source.row0 = row0, source.rows = rows, source.channels = tap.channels;
    typename S::Sums sums;
    Product<S, Rows<S>>::run(sums, source, tap.weight, tap.channels, WIDTH, n0, buffer);
    finish<S>(sums, Plain{}, static_cast<E *>(tap.projected), row0, rows, n0, WIDTH, buffer, [](int row) { return row; });
}

// Where pixel i of an axis of `output` pixels lies among `input`: the lower neighbour, and the weight of the upper one. Pixel centres
// are aligned, (i + ½)·input/output − ½ and not below 0; in whole numbers, so that nothing is rounded but the weight itself.
struct Sample {
    int low, step;
    float weight;
};
__device__ __forceinline__ Sample sample(int i, int input, int output) {
    const int numerator = max((2 * i + 1) * input - output, 0);
    const int low = min(numerator / (2 * output), input - 1);
    return Sample{low, low + 1 < input ? 1 : 0, float(numerator - low * 2 * output) / float(2 * output)};
}

// Adds the four neighbours of a chunk, weighted: down first, then across.
template <class E>
__device__ __forceinline__ void add_sample(float (&values)[CHUNK<E>], const E *map, u32 right, u32 down, float x_weight, float y_weight) {
    float corner[4][CHUNK<E>];
#pragma unroll
    for (int i = 0; i < 4; i++) unpack<E>(load_chunk(map + (i % 2 ? right : 0) + (i / 2 ? down : 0)), corner[i]);
#pragma unroll
    for (int v = 0; v < CHUNK<E>; v++) {
        const float low = fmaf(corner[2][v] - corner[0][v], y_weight, corner[0][v]);
        const float high = fmaf(corner[3][v] - corner[1][v], y_weight, corner[1][v]);
        values[v] += fmaf(high - low, x_weight, low);
    }
}

// Of a row in a coarse map: low-left element, steps to the right and down, filled up to a chunk; and the two weights. They lie in two
// tables, so that lanes side by side write to different banks.
constexpr int PLACE_BYTES = 16, WEIGHTS_BYTES = 8, SAMPLE_BYTES = PLACE_BYTES + WEIGHTS_BYTES;

template <class S>
constexpr int fuse_bytes() {
    return S::BYTES > finish_bytes<S, false>() + S::ROWS * 3 * SAMPLE_BYTES ? S::BYTES : finish_bytes<S, false>() + S::ROWS * 3 * SAMPLE_BYTES;
}

// Grid (tiles of pixels of tap 0, tiles of columns). `taps` holds the coarse taps in order; only what was projected is read.
template <class S, int WIDTH, int CHANNELS>
__device__ __forceinline__ void fuse(const typename S::E *x, const u8 *weight, const float *bias, typename S::E *out, int batch,
                                     int height, int width, const Coarse (&taps)[3]) {
    using E = typename S::E;
    const u32 buffer = shared_address(shared_memory);
    const int row0 = int(blockIdx.x) * S::ROWS, n0 = int(blockIdx.y) * S::COLUMNS, rows = batch * height * width;
    gemm::Rows<S, CHANNELS> source;
    source.x = x, source.row0 = row0, source.rows = rows;
    typename S::Sums sums;
    Product<S, gemm::Rows<S, CHANNELS>>::run(sums, source, weight, CHANNELS, WIDTH, n0, buffer);

    // Where each row of the tile lies in each coarse map, once for all its columns.
    const u32 place_table = buffer + finish_bytes<S, false>(), weight_table = place_table + S::ROWS * 3 * PLACE_BYTES;
    for (int i = int(threadIdx.x); i < S::ROWS * 3; i += S::THREADS) {
        const int which = i / S::ROWS, r = i % S::ROWS, row = min(row0 + r, rows - 1);
        const Coarse tap = which == 0 ? taps[0] : which == 1 ? taps[1] : taps[2];
        const Sample vertical = sample(row / width % height, tap.height, height), horizontal = sample(row % width, tap.width, width);
        const u32 at = u32((row / (width * height) * tap.height + vertical.low) * tap.width + horizontal.low);
        const Chunk place{{at, u32(horizontal.step * WIDTH), u32(vertical.step * tap.width * WIDTH), 0}};
        store_shared(place_table + u32(i) * PLACE_BYTES, place);
        store_pair(weight_table + u32(i) * WEIGHTS_BYTES, horizontal.weight, vertical.weight);
    }
    __syncthreads();

    const int lane = lane_id(), g = lane >> 2, t = lane & 3, warp = int(threadIdx.x) / 32;
    const int tile_row = warp % S::WARPS_M * S::WARP_ROWS, column0 = n0 + warp / S::WARPS_M * S::WARP_COLUMNS;
    constexpr int STRIDE = S::WARP_COLUMNS + 8, LANES = S::WARP_COLUMNS / CHUNK<E>;
    const u32 staging = buffer + u32(warp * 16 * STRIDE) * 4;
    // Through shared memory, 16 rows at a time, so that maps and output are read and written 16 bytes a lane.
#pragma unroll
    for (int m = 0; m < S::M_ATOMS; m++) {
#pragma unroll
        for (int a = 0; a < S::N_ATOMS; a++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                store_pair(staging + u32((g + half * 8) * STRIDE + a * 8 + 2 * t) * 4, sums[m][a][half * 2], sums[m][a][half * 2 + 1]);
            }
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < 16 * LANES; i += 32) {
            const int r = tile_row + m * 16 + i / LANES, c = i % LANES * CHUNK<E>, row = row0 + r, column = column0 + c;
            if (row >= rows || column >= WIDTH) continue;
            float values[CHUNK<E>];
            read_staged(values, staging + u32(i / LANES * STRIDE + c) * 4, lane);
#pragma unroll
            for (int v = 0; v < CHUNK<E>; v++) values[v] += bias[column + v];
#pragma unroll
            for (int which = 0; which < 3; which++) {
                const u32 sample = u32(which * S::ROWS + r);
                const Chunk place = load_shared(place_table + sample * PLACE_BYTES);
                const float2 weights = load_pair(weight_table + sample * WEIGHTS_BYTES);
                const E *map = static_cast<const E *>(taps[which].projected) + u64(place.word[0]) * WIDTH + column;
                add_sample<E>(values, map, place.word[1], place.word[2], weights.x, weights.y);
            }
            store_chunk(out + u64(row) * WIDTH + column, pack<E>(values));
        }
        __syncwarp();
    }
}

}  // namespace segface::mlp_fusion
