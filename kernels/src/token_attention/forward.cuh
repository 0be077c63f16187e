// One pass over the image tokens (`segface_kernels::token_attention::ImagePassSpec`). With T class tokens, 8 heads, N = 8·T:
//
//   update: s = A_u·(x_p + pe_p) + c_u, softmax over t within each head, x_p ← LN(x_p + Σ s[h, t]·V_u[h, t] + b_u)
//   attend: s = A_a·(x_p + pe_p), softmax over p for each (h, t), pooled[h, t] = Σ_p s·x_p with the x_p just updated
//
// x, out [batch, P, 256] (may be the same memory), pe f32 [w + h, 256], A_u, A_a packed [N, 256], V_uᵀ packed [256, N]
// (`pack.cuh`). FLOPs 2·4·256·N·P; x is read once and written once, the operands (240 KB in f16 at T = 19) once per block and
// tile of 64 tokens, from the second-level cache.
//
// A block takes `chunk` tokens of one image, a tile of ROWS at a time. The tile x and x + pe lie in shared memory; the scores'
// product reads the latter, whose place the probabilities take. Softmax over t is a softmax over the atoms of a column:
// order t·8 + h puts the tokens of a head into the same column of each atom. The attend half is a flash-decoding split: block-local
// maxima and sums, Σ exp(s − m)·x into the workspace, rescaled there from tile to tile (in registers, [N, 256] f32 would
// take 160 a thread). `merge` adds the partial sums in a fixed order. Their number depends on P alone, so results do not depend on the
// card: at most 128, which at 512×512 is one block for each multiprocessor of a large card.
#pragma once
#include "cuda/resident.cuh"
#include "token_attention/merge.cuh"
#include "token_attention/position.cuh"

namespace segface::token_attention {

struct ImagePassOperands {
    const void *x;
    void *out;
    const float *pe;
    const u8 *update_scores;
    const float *update_score_bias;
    const u8 *update_values;
    const float *update_bias, *norm_weight, *norm_bias;
    const u8 *attend_scores;
    float *partials;       // [batch, chunks, N, 256]
    float2 *statistics;    // [batch, chunks, N]: maximum, sum
    int pixels, width, chunk;
    bool shared_attend;    // one A_a for all images
    float eps;
};

template <class P_, int T_, bool UPDATE_, bool ATTEND_>
struct ImagePass {
    using P = P_;
    using E = typename P::Element;
    using M = Mma<P>;
    static constexpr int T = T_, N = 8 * T, ROWS = sizeof(E) == 2 ? 64 : 32;
    static constexpr int WARPS_M = 2, WARPS_N = 4, WARPS = WARPS_M * WARPS_N, THREADS = 32 * WARPS;
    using Scores = Resident<P, ROWS, T, WARPS_M, WARPS_N, 3>;
    using Values = Resident<P, ROWS, 32, WARPS_M, WARPS_N, 2>;
    static constexpr int M_ATOMS = Scores::M_ATOMS;
    // Terms of the product with V_u, padded to whole blocks of k; a row of the tile is whole groups of 8 chunks.
    static constexpr int TERMS = round_up(N, PACK_K<P>), TERM_COLUMNS = round_up(TERMS, 128 / int(sizeof(E)));
    using XTile = Tile<E, 256>;
    using ProbabilityTile = Tile<E, TERM_COLUMNS>;
    using TransposedTile = Tile<E, ROWS>;
    static constexpr int POOLED_ATOMS = round_up(ceil_divide(N, 16), 2);
    static constexpr int X_BYTES = XTile::bytes(ROWS), BUFFER_BYTES = 2 * 32 * PACK_BYTES, ROW_STATISTICS = POOLED_ATOMS * 16;
    static constexpr int BYTES = 2 * X_BYTES + BUFFER_BYTES + 3 * ROW_STATISTICS * 4;
    static_assert(Scores::BYTES <= BUFFER_BYTES && Values::BYTES <= BUFFER_BYTES && WARPS_N * ROWS * 64 <= BUFFER_BYTES, "buffer");
    static_assert(ProbabilityTile::bytes(ROWS) <= X_BYTES && TransposedTile::bytes(POOLED_ATOMS * 16) <= X_BYTES, "probabilities");

    const ImagePassOperands &o;
    u32 x_base, encoded_base, buffer, statistics;
    int image, lane, g, t, warp_m, warp_n;

    __device__ __forceinline__ explicit ImagePass(const ImagePassOperands &operands) : o(operands) {
        x_base = shared_address(shared_memory);
        encoded_base = x_base + X_BYTES;
        buffer = encoded_base + X_BYTES;
        statistics = buffer + BUFFER_BYTES;
        image = int(blockIdx.y);
        lane = lane_id(), g = lane >> 2, t = lane & 3;
        warp_m = int(threadIdx.x) / 32 % WARPS_M, warp_n = int(threadIdx.x) / 32 / WARPS_M;
    }

    __device__ __forceinline__ int row_of(int m, int half) const { return warp_m * Scores::WARP_ROWS + m * 16 + half * 8 + g; }

    __device__ __forceinline__ void run() {
        const int begin = int(blockIdx.x) * o.chunk, end = min(begin + o.chunk, o.pixels);
        if constexpr (ATTEND) {
            for (int n = int(threadIdx.x); n < N; n += THREADS) {
                store_number(statistics + u32(n) * 4, LOWEST);
                store_number(statistics + u32(ROW_STATISTICS + n) * 4, 0.0f);
            }
        }
        for (int first = begin; first < end; first += ROWS) {
            __syncthreads();
            load(first, end);
            if constexpr (UPDATE) {
                update();
                write(first, end);
            }
            if constexpr (ATTEND) attend(first, end, first == begin);
        }
        if constexpr (ATTEND) {
            __syncthreads();
            float2 *target = o.statistics + (u64(image) * gridDim.x + blockIdx.x) * N;
            for (int n = int(threadIdx.x); n < N; n += THREADS) {
                target[n] = float2{load_number(statistics + u32(n) * 4), load_number(statistics + u32(ROW_STATISTICS + n) * 4)};
            }
        }
    }

    static constexpr bool UPDATE = UPDATE_, ATTEND = ATTEND_;

    // A thread takes chunks c and c + HALF of a row, a sine's channels and its cosine's.
    static constexpr int HALF = 256 / CHUNK<E> / 2, ROW_STEP = THREADS / HALF;

    // x and x + pe of tokens first .. first + ROWS, zeros past the end.
    __device__ __forceinline__ void load(int first, int end) const {
        const XTile tile{x_base}, encoded{encoded_base};
        const E *x = static_cast<const E *>(o.x) + u64(image) * u32(o.pixels) * 256;
        const int c = int(threadIdx.x) % HALF;
#pragma unroll
        for (int i = 0; i < ROWS / ROW_STEP; i++) {
            const int row = int(threadIdx.x) / HALF + i * ROW_STEP, token = first + row;
            const bool there = token < end;
            const E *source = x + u64(there ? token : 0) * 256 + c * CHUNK<E>;
            copy_async(tile.address(row, c), source, there ? 16 : 0);
            copy_async(tile.address(row, c + HALF), source + 128, there ? 16 : 0);
        }
        commit_copies();
        wait_copies<0>();
        // A thread sees its own copies without a barrier. Unrolled, the tables' numbers would take all registers.
#pragma unroll 1
        for (int i = 0; i < ROWS / ROW_STEP; i++) {
            const int row = int(threadIdx.x) / HALF + i * ROW_STEP;
            encode(row, min(first + row, end - 1));
        }
    }

    __device__ __forceinline__ void encode(int row, int token) const {
        const XTile tile{x_base}, encoded{encoded_base};
        const int c = int(threadIdx.x) % HALF;
        Chunk low = load_shared(tile.address(row, c)), high = load_shared(tile.address(row, c + HALF));
        add_position<E>(low, high, o.pe, token % o.width, o.width + token / o.width, c * CHUNK<E>);
        store_shared(encoded.address(row, c), low);
        store_shared(encoded.address(row, c + HALF), high);
    }

    // The tile x goes to memory, and with its encoding to the second tile, for the attend half.
    __device__ __forceinline__ void write(int first, int end) const {
        const XTile tile{x_base};
        E *out = static_cast<E *>(o.out) + u64(image) * u32(o.pixels) * 256;
        const int c = int(threadIdx.x) % HALF;
        __syncthreads();
#pragma unroll 1
        for (int i = 0; i < ROWS / ROW_STEP; i++) {
            const int row = int(threadIdx.x) / HALF + i * ROW_STEP, token = first + row;
            if (token < end) {
                E *target = out + u64(token) * 256 + c * CHUNK<E>;
                store_chunk(target, load_shared(tile.address(row, c)));
                store_chunk(target + 128, load_shared(tile.address(row, c + HALF)));
            }
            if constexpr (ATTEND) encode(row, min(token, end - 1));
        }
    }

    // The tile x looks at the class tokens.
    __device__ __forceinline__ void update() const {
        {
            typename Scores::Sums s;
            const u8 *weights = o.update_scores + u64(image) * (T * 256 / PACK_K<P> * PACK_BYTES);
            Scores::run(s, XTile{encoded_base}, weights, 256, T, buffer);
            softmax_over_tokens(s);
        }
        typename Values::Sums y;
        const u8 *weights = o.update_values + u64(image) * (TERMS / PACK_K<P> * 32 * PACK_BYTES);
        Values::run(y, ProbabilityTile{encoded_base}, weights, N, 32, buffer);
        residual_and_norm(y);
    }

    // Probabilities of each head, into the place of the encoded tile.
    __device__ __forceinline__ void softmax_over_tokens(typename Scores::Sums &s) const {
        const float *bias = o.update_score_bias + image * N;
#pragma unroll
        for (int n = 0; n < Scores::N_ATOMS; n++) {
            if (!Scores::has(n)) continue;
            const float2 b = *reinterpret_cast<const float2 *>(bias + (Scores::first_block() + n) * 8 + 2 * t);
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] += i % 2 ? b.y : b.x;
        }
        // Each warp has the tokens of its atoms; maximum and sum of all meet in shared memory: [warp_n][row][head] pairs.
        float maximum[M_ATOMS][4], total[M_ATOMS][4];
        auto exchange = [&](int w, int row) { return buffer + u32((w * ROWS + row) * 8 + 2 * t) * 8; };
#pragma unroll
        for (int m = 0; m < M_ATOMS; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float top = LOWEST, sum = 0;
#pragma unroll
                for (int n = 0; n < Scores::N_ATOMS; n++) {
                    if (Scores::has(n)) top = fmaxf(top, s[m][n][i]);
                }
#pragma unroll
                for (int n = 0; n < Scores::N_ATOMS; n++) {
                    if (!Scores::has(n)) continue;
                    s[m][n][i] = expf(s[m][n][i] - top);
                    sum += s[m][n][i];
                }
                maximum[m][i] = top;
                total[m][i] = sum;
            }
            // 16 bytes a lane, for its two heads: 512 bytes in a row.
#pragma unroll
            for (int half = 0; half < 2; half++) {
                store_shared(exchange(warp_n, row_of(m, half)),
                             Chunk{{__float_as_uint(maximum[m][2 * half]), __float_as_uint(total[m][2 * half]),
                                    __float_as_uint(maximum[m][2 * half + 1]), __float_as_uint(total[m][2 * half + 1])}});
            }
        }
        __syncthreads();
        const ProbabilityTile tile{encoded_base};
#pragma unroll
        for (int m = 0; m < M_ATOMS; m++) {
            float factor[4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Chunk parts[WARPS_N];
#pragma unroll
                for (int w = 0; w < WARPS_N; w++) parts[w] = load_shared(exchange(w, row_of(m, half)));
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float top = LOWEST, sum = 0;
#pragma unroll
                    for (int w = 0; w < WARPS_N; w++) top = fmaxf(top, __uint_as_float(parts[w].word[2 * j]));
#pragma unroll
                    for (int w = 0; w < WARPS_N; w++) {
                        sum += __uint_as_float(parts[w].word[2 * j + 1]) * expf(__uint_as_float(parts[w].word[2 * j]) - top);
                    }
                    factor[2 * half + j] = expf(maximum[m][2 * half + j] - top) / sum;
                }
            }
#pragma unroll
            for (int n = 0; n < Scores::N_ATOMS; n++) {
                if (!Scores::has(n)) continue;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    tile.store_pair(row_of(m, half), (Scores::first_block() + n) * 8 + 2 * t,
                                    s[m][n][2 * half] * factor[2 * half], s[m][n][2 * half + 1] * factor[2 * half + 1]);
                }
            }
        }
        // Zeros in the terms that pad.
        constexpr int PAD = (TERMS - N) / CHUNK<E>;
        for (int i = int(threadIdx.x); i < ROWS * PAD; i += THREADS) {
            store_shared(tile.address(i / (PAD ? PAD : 1), N / CHUNK<E> + i % (PAD ? PAD : 1)), zero_chunk());
        }
        // The buffer is free for weights again.
        __syncthreads();
    }

    // x ← LN(x + y + b_u) in the tile.
    __device__ __forceinline__ void residual_and_norm(typename Values::Sums &y) const {
        const XTile tile{x_base};
        const int column0 = warp_n * 64 + 2 * t;
#pragma unroll
        for (int n = 0; n < Values::N_ATOMS; n++) {
            const float2 b = *reinterpret_cast<const float2 *>(o.update_bias + column0 + n * 8);
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float2 x = load_elements(tile, row_of(m, half), column0 + n * 8);
                    y[m][n][2 * half] += x.x + b.x;
                    y[m][n][2 * half + 1] += x.y + b.y;
                }
        }
        // Mean first, then the squares of what is left.
        float mean[M_ATOMS][2], scale[M_ATOMS][2];
#pragma unroll
        for (int pass = 0; pass < 2; pass++) {
            const u32 sums = buffer + u32(pass * ROWS * WARPS_N) * 4;
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float sum = 0;
#pragma unroll
                    for (int n = 0; n < Values::N_ATOMS; n++)
#pragma unroll
                        for (int j = 0; j < 2; j++) {
                            const float value = y[m][n][2 * half + j], d = pass == 0 ? value : value - mean[m][half];
                            sum += pass == 0 ? d : d * d;
                        }
                    sum += __shfl_xor_sync(~0u, sum, 1);
                    sum += __shfl_xor_sync(~0u, sum, 2);
                    if (t == 0) store_number(sums + u32(row_of(m, half) * WARPS_N + warp_n) * 4, sum);
                }
            __syncthreads();
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const Chunk parts = load_shared(sums + u32(row_of(m, half) * WARPS_N) * 4);
                    float sum = 0;
#pragma unroll
                    for (int w = 0; w < WARPS_N; w++) sum += __uint_as_float(parts.word[w]);
                    if (pass == 0) mean[m][half] = sum / 256.0f;
                    else scale[m][half] = rsqrtf(sum / 256.0f + o.eps);
                }
        }
#pragma unroll
        for (int n = 0; n < Values::N_ATOMS; n++) {
            const float2 weight = *reinterpret_cast<const float2 *>(o.norm_weight + column0 + n * 8);
            const float2 bias = *reinterpret_cast<const float2 *>(o.norm_bias + column0 + n * 8);
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float low = (y[m][n][2 * half] - mean[m][half]) * scale[m][half] * weight.x + bias.x;
                    const float high = (y[m][n][2 * half + 1] - mean[m][half]) * scale[m][half] * weight.y + bias.y;
                    tile.store_pair(row_of(m, half), column0 + n * 8, low, high);
                }
        }
    }

    // The class tokens look at the tile x.
    __device__ __forceinline__ void attend(int first, int end, bool is_first) const {
        {
            typename Scores::Sums s;
            const u8 *weights = o.attend_scores + (o.shared_attend ? 0 : u64(image) * (T * 256 / PACK_K<P> * PACK_BYTES));
            Scores::run(s, XTile{encoded_base}, weights, 256, T, buffer);
            softmax_over_image(s, first, end);
        }
        pool(is_first);
    }

    // exp(s − m), transposed, into the place of the encoded tile; running maxima and sums.
    __device__ __forceinline__ void softmax_over_image(typename Scores::Sums &s, int first, int end) const {
        const u32 running_maximum = statistics, running_sum = statistics + ROW_STATISTICS * 4, factor = running_sum + ROW_STATISTICS * 4;
        const u32 maxima = buffer, sums = buffer + WARPS_M * ROW_STATISTICS * 4;
#pragma unroll
        for (int n = 0; n < Scores::N_ATOMS; n++) {
            if (!Scores::has(n)) continue;
            float top[2] = {LOWEST, LOWEST};
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (first + row_of(m, i / 2) >= end) s[m][n][i] = LOWEST;
                    top[i % 2] = fmaxf(top[i % 2], s[m][n][i]);
                }
#pragma unroll
            for (int d = 4; d < 32; d *= 2)
#pragma unroll
                for (int j = 0; j < 2; j++) top[j] = fmaxf(top[j], __shfl_xor_sync(~0u, top[j], d));
            if (g == 0) store_pair(maxima + u32(warp_m * ROW_STATISTICS + (Scores::first_block() + n) * 8 + 2 * t) * 4, top[0], top[1]);
        }
        __syncthreads();
        auto new_maximum = [&](int column) {
            float2 top = load_pair(running_maximum + u32(column) * 4);
#pragma unroll
            for (int w = 0; w < WARPS_M; w++) {
                const float2 part = load_pair(maxima + u32(w * ROW_STATISTICS + column) * 4);
                top.x = fmaxf(top.x, part.x), top.y = fmaxf(top.y, part.y);
            }
            return top;
        };
        const TransposedTile tile{encoded_base};
#pragma unroll
        for (int n = 0; n < Scores::N_ATOMS; n++) {
            if (!Scores::has(n)) continue;
            const int column = (Scores::first_block() + n) * 8 + 2 * t;
            const float2 top = new_maximum(column);
            float sum[2] = {0, 0};
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float p = expf(s[m][n][i] - (i % 2 ? top.y : top.x));
                    sum[i % 2] += p;
                    tile.store(column + i % 2, row_of(m, i / 2), narrow<E>(p));
                }
#pragma unroll
            for (int d = 4; d < 32; d *= 2)
#pragma unroll
                for (int j = 0; j < 2; j++) sum[j] += __shfl_xor_sync(~0u, sum[j], d);
            if (g == 0) store_pair(sums + u32(warp_m * ROW_STATISTICS + column) * 4, sum[0], sum[1]);
        }
        if (const int column = 2 * int(threadIdx.x); column < N) {
            const float2 old = load_pair(running_maximum + u32(column) * 4), top = new_maximum(column);
            store_pair(factor + u32(column) * 4, expf(old.x - top.x), expf(old.y - top.y));
        }
        __syncthreads();
        if (const int column = 2 * int(threadIdx.x); column < N) {
            const float2 top = new_maximum(column), old = load_pair(factor + u32(column) * 4);
            float2 sum = load_pair(running_sum + u32(column) * 4);
            sum.x *= old.x, sum.y *= old.y;
#pragma unroll
            for (int w = 0; w < WARPS_M; w++) {
                const float2 part = load_pair(sums + u32(w * ROW_STATISTICS + column) * 4);
                sum.x += part.x, sum.y += part.y;
            }
            store_pair(running_maximum + u32(column) * 4, top.x, top.y);
            store_pair(running_sum + u32(column) * 4, sum.x, sum.y);
        }
    }

    // Partial sums [N, 256] += probabilitiesᵀ·x: a warp makes 32 channels, two atoms of rows at a time.
    __device__ __forceinline__ void pool(bool is_first) const {
        constexpr int STEPS = ROWS / M::K;
        // Fragments of x are held over all rows, where they fit into registers.
        constexpr bool HOLD = sizeof(typename M::B) == 8;
        const TransposedTile tile{encoded_base};
        const XTile x{x_base};
        const int channel = int(threadIdx.x) / 32 * 32;
        const u32 factor = statistics + 2 * ROW_STATISTICS * 4;
        float *partial = o.partials + (u64(image) * gridDim.x + blockIdx.x) * (N * 256);
        typename M::B held[HOLD ? STEPS : 1][4];
        if constexpr (HOLD) {
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int n = 0; n < 4; n++) held[step][n] = M::load_b_columns(x, step * M::K, channel + n * 8);
        }
#pragma unroll 1
        for (int pair = 0; pair < POOLED_ATOMS / 2; pair++) {
            float sums[2][4][4];
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = (pair * 2 + m) * 16 + half * 8 + g;
                    const bool there = row < N && !is_first;
                    const float scale = there ? load_number(factor + u32(row) * 4) : 0.0f;
#pragma unroll
                    for (int n = 0; n < 4; n++) {
                        float2 old{0, 0};
                        if (there) old = *reinterpret_cast<const float2 *>(partial + row * 256 + channel + n * 8 + 2 * t);
                        sums[m][n][2 * half] = old.x * scale;
                        sums[m][n][2 * half + 1] = old.y * scale;
                    }
                }
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                typename M::A rows[2];
#pragma unroll
                for (int m = 0; m < 2; m++) rows[m] = M::load_a(tile, (pair * 2 + m) * 16, step * M::K);
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    if constexpr (!HOLD) held[0][n] = M::load_b_columns(x, step * M::K, channel + n * 8);
#pragma unroll
                    for (int m = 0; m < 2; m++) M::multiply(sums[m][n], rows[m], held[HOLD ? step : 0][n]);
                }
            }
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int row = (pair * 2 + m) * 16 + half * 8 + g;
                    if (row >= N) continue;
#pragma unroll
                    for (int n = 0; n < 4; n++) {
                        *reinterpret_cast<float2 *>(partial + row * 256 + channel + n * 8 + 2 * t) =
                            float2{sums[m][n][2 * half], sums[m][n][2 * half + 1]};
                    }
                }
        }
    }
};

// Bytes of dynamic shared memory: two tiles of 32 KB, two stages of weights, statistics of the rows.
template <class Pass>
constexpr int bytes() {
    return Pass::BYTES;
}

// One pass. Grid (chunks of an image, batch).
template <class Pass>
__device__ __forceinline__ void image_pass(const ImagePassOperands &operands) {
    Pass(operands).run();
}

}  // namespace segface::token_attention
