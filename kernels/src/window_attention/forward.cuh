// Attention of a Swin block inside its windows, up to the projection:
//
//     out[token] = attend(qkv(norm(x)))[token]        (`segface_kernels::window_attention::WindowAttentionSpec`)
//
// x [batch, height, width, CHANNELS]; qkv_weight packed [3·CHANNELS, CHANNELS] (q of all heads, k of all, v of all), qkv_bias
// [3·CHANNELS]; score_scale [heads]; position_bias packed (attend.cuh); out [batch, height, width, CHANNELS], overwritten, every
// token at its own place: the roll and the padding are never in memory. The projection with bias, V2's norm and the residual
// is a plain product that follows (gemm).
//
// A block makes HEADS heads of WINDOWS windows: grid (windows of all images / WINDOWS, heads / HEADS). Its rows are the windows'
// tokens, 64 places each; its columns the 96·HEADS of q, k and v. They meet in the usual main loop, the result goes to shared
// memory where the loop's buffers were, and each of the 4·WINDOWS·HEADS warps then attends for 16 queries of one head. Blocks of a
// window read its tokens CHANNELS / (32·HEADS) times, from the second cache; so a batch of one still fills a card.
// FLOPs per token: 6·CHANNELS² + 4·AREA·CHANNELS, 64 / 49 times that for windows of 7 by 7.
#pragma once
#include "gemm/forward.cuh"
#include "window_attention/attend.cuh"

namespace segface::window_attention {

// V1: norm before, q scaled. V2: no norm before, q and k of length one.
enum class Kind { V1, V2 };

template <class P_, int WINDOW_, int CHANNELS_, Kind KIND_, int WINDOWS_, int HEADS_, int STAGES_>
struct Config {
    using P = P_;
    using S = Shape<P, TOKENS * WINDOWS_, 3 * HEAD * HEADS_, 2 * WINDOWS_, 2 * HEADS_, 64, STAGES_>;
    using T = Tile<typename P::Element, HEAD>;
    static constexpr int WINDOW = WINDOW_, CHANNELS = CHANNELS_, WINDOWS = WINDOWS_, HEADS = HEADS_, THREADS = S::THREADS;
    static constexpr Kind KIND = KIND_;
    static constexpr int TILE_BYTES = T::bytes(TOKENS);
    static constexpr int TILES_BYTES = 3 * WINDOWS * HEADS * TILE_BYTES;
    // Squares of halves of q and k, V2 only.
    static constexpr int SQUARES_BYTES = KIND == Kind::V2 ? 4 * WINDOWS * HEADS * TOKENS * 4 : 0;
    static_assert(CHANNELS % (HEAD * HEADS) == 0, "a block takes whole heads, of which there are a multiple");
};

template <class C>
constexpr int bytes() {
    return C::S::BYTES > C::TILES_BYTES + C::SQUARES_BYTES ? C::S::BYTES : C::TILES_BYTES + C::SQUARES_BYTES;
}

// The tokens of a block's windows, zeros for padding.
template <class C>
struct WindowRows {
    using S = typename C::S;
    using E = typename S::E;
    static constexpr bool TRANSFORMS = false;
    const E *x;
    Plan<C::WINDOW> plan;
    int first_window, windows;
    const E *row[S::SLOTS];
    bool there[S::SLOTS];

    __device__ __forceinline__ WindowRows(const E *x, const Plan<C::WINDOW> &plan, int first_window, int windows)
        : x(x), plan(plan), first_window(first_window), windows(windows) {}
    __device__ __forceinline__ void prepare(int i, int r) {
        const int window = first_window + r / TOKENS, position = r % TOKENS;
        const int pixel = window < windows && position < plan.AREA ? plan.pixel(window, position) : -1;
        there[i] = pixel >= 0;
        row[i] = x + u64(there[i] ? pixel : 0) * C::CHANNELS;
    }
    __device__ __forceinline__ const E *at(int i, int k) const { return there[i] ? row[i] + k : nullptr; }
    __device__ __forceinline__ void copy(int i, u32 target, int k) const {
        const bool inside = there[i] && k < C::CHANNELS;
        copy_async(target, inside ? row[i] + k : x, inside ? 16 : 0);
    }
};

// A warp makes 32 rows and a half head: 16 columns each of q, k and v. Adds the bias, makes V2's lengths one, puts the score's
// scale into q and stores all three, rounded, as tiles.
template <class C>
__device__ __forceinline__ void store_heads(typename C::S::Sums &sums, const float *bias, const float *score_scale, int first_head,
                                            u32 buffer) {
    const int lane = lane_id(), g = lane >> 2, t = lane & 3, warp = int(threadIdx.x) / 32;
    const int warp_m = warp % (2 * C::WINDOWS), warp_n = warp / (2 * C::WINDOWS);
    const int window = warp_m / 2, row = warp_m % 2 * 32, head = warp_n / 2, half_head = warp_n % 2;
#pragma unroll
    for (int a = 0; a < 6; a++) {
        const float2 b = *reinterpret_cast<const float2 *>(bias + a / 2 * C::CHANNELS + (first_head + head) * HEAD + half_head * 16 +
                                                           a % 2 * 8 + 2 * t);
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][a][i] += i % 2 ? b.y : b.x;
    }
    const float scale = score_scale[first_head + head] * LOG2_E;
    float factor[2][2][2];
    if constexpr (C::KIND == Kind::V1) {
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) factor[0][m][half] = scale, factor[1][m][half] = 1.0f;
    } else {
        // [window and head][q or k][half of the head][row]
        const u32 squares = buffer + C::TILES_BYTES + u32((window * C::HEADS + head) * 4 * TOKENS) * 4;
#pragma unroll
        for (int part = 0; part < 2; part++)
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float sum = 0;
#pragma unroll
                    for (int a = 0; a < 2; a++)
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            const float value = sums[m][part * 2 + a][half * 2 + j];
                            sum = fmaf(value, value, sum);
                        }
                    sum += __shfl_xor_sync(~0u, sum, 1);
                    sum += __shfl_xor_sync(~0u, sum, 2);
                    factor[part][m][half] = sum;
                    const int r = row + m * 16 + half * 8 + g;
                    if (t == 0) {
                        asm volatile("st.shared.f32 [%0], %1;" ::"r"(squares + u32((part * 2 + half_head) * TOKENS + r) * 4), "f"(sum)
                                     : "memory");
                    }
                }
        __syncthreads();
#pragma unroll
        for (int part = 0; part < 2; part++)
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int r = row + m * 16 + half * 8 + g;
                    const float other = __uint_as_float(load_word(squares + u32((part * 2 + (half_head ^ 1)) * TOKENS + r) * 4));
                    // 1 / max(length, 1e-12)
                    factor[part][m][half] = rsqrtf(fmaxf(factor[part][m][half] + other, 1e-24f)) * (part == 0 ? scale : 1.0f);
                }
    }
#pragma unroll
    for (int a = 0; a < 6; a++) {
        const typename C::T tile{buffer + u32(((window * C::HEADS + head) * 3 + a / 2) * C::TILE_BYTES)};
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float f = a < 4 ? factor[a / 2][m][half] : 1.0f;
                tile.store_pair(row + m * 16 + half * 8 + g, half_head * 16 + a % 2 * 8 + 2 * t, sums[m][a][half * 2] * f,
                                sums[m][a][half * 2 + 1] * f);
            }
    }
}

template <class C>
__device__ __forceinline__ void forward(const typename C::S::E *x, const float *norm_weight, const float *norm_bias, float eps,
                                        const u8 *qkv_weight, const float *qkv_bias, const float *score_scale,
                                        const float *position_bias, typename C::S::E *out, int batch, const Plan<C::WINDOW> &plan) {
    using S = typename C::S;
    using E = typename S::E;
    const u32 buffer = shared_address(shared_memory);
    const int first_window = int(blockIdx.x) * C::WINDOWS, windows = batch * plan.windows(), first_head = int(blockIdx.y) * C::HEADS;
    typename S::Sums sums;
    const auto block_of = [=](int block) {
        const int warp = block / 6, a = block % 6;
        return a / 2 * (C::CHANNELS / PACK_COLUMNS) + (first_head + warp / 2) * (HEAD / PACK_COLUMNS) + warp % 2 * 2 + a % 2;
    };
    constexpr int BLOCKS_N = 3 * C::CHANNELS / PACK_COLUMNS;
    if constexpr (C::KIND == Kind::V1) {
        using Source = gemm::NormedRows<S, C::CHANNELS, WindowRows<C>>;
        Source source(WindowRows<C>(x, plan, first_window, windows), norm_weight, norm_bias, eps);
        Product<S, Source>::run_blocks(sums, source, qkv_weight, C::CHANNELS, BLOCKS_N, block_of, buffer);
    } else {
        WindowRows<C> source(x, plan, first_window, windows);
        Product<S, WindowRows<C>>::run_blocks(sums, source, qkv_weight, C::CHANNELS, BLOCKS_N, block_of, buffer);
    }
    store_heads<C>(sums, qkv_bias, score_scale, first_head, buffer);
    __syncthreads();

    const int lane = lane_id(), warp = int(threadIdx.x) / 32, row = warp % 4 * 16, head = warp / 4 % C::HEADS;
    const int window = first_window + warp / 4 / C::HEADS;
    // Also where there is no such window, or no such query: bias alone, and not stored.
    const u32 tiles = buffer + u32(warp / 4 * 3 * C::TILE_BYTES);
    const typename C::T q{tiles}, k{tiles + C::TILE_BYTES}, v{tiles + 2 * C::TILE_BYTES};
    attend<typename C::P, C::WINDOW>(q, k, v, row,
                                     position_bias + ((first_head + head) * 4 + warp % 4) * BIAS_FRAGMENTS<C::WINDOW>, plan, window);
    constexpr int CHUNKS = HEAD / CHUNK<E>;
#pragma unroll
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
        const int position = row + i / CHUNKS;
        if (window >= windows || position >= plan.AREA) continue;
        const int pixel = plan.pixel(window, position);
        if (pixel < 0) continue;
        store_chunk(out + u64(pixel) * C::CHANNELS + (first_head + head) * HEAD + i % CHUNKS * CHUNK<E>,
                    load_shared(q.address(position, i % CHUNKS)));
    }
}

}  // namespace segface::window_attention
