// One step on the class tokens between two image passes (`segface_kernels::token_attention::TokenStepSpec`), f32 throughout:
//
//   q ← LN(q + W_o·concat_h(W_v,h·pooled[h] + b_v,h) + b_o)                     the pending token-to-image attention
//   Layer0, Layer1: q ← LN(q + W_2·relu(W_1·q + b_1) + b_2)
//                   k = W_k(q + pe) + b_k, v = W_v·q + b_v:
//                   A_u[t, h] = W_q,hᵀ·k[t, h]/4, c_u[t, h] = b_q,h·k[t, h]/4, V_u[t, h] = W_o,h·v[t, h]
//   Layer0:         q ← LN(q + self-attention(q + pe, q + pe, q))
//   Layer0, Layer1: A_a[h, t] = W_k,hᵀ·(W_q,h(q + pe) + b_q,h)/4
//   Final:          hyper = W_3·relu(W_2·relu(W_1·q + b_1) + b_2) + b_3
//
// Weights row-major f32. T rows an image against up to 5.6 MB of weights: nothing here but latency. So a step is ONE
// cooperative launch: GRID blocks that meet at a barrier after each of its 5 to 9 layers, as many times as it would have been launched
// otherwise, but without 5 to 9 launches. The grid is fixed, small enough (half a multiprocessor's threads and shared memory a
// block) to be resident on every card with 32 multiprocessors, whatever the batch: blocks loop over units of work, a unit
// being some columns of a layer for the T rows of one image. Every weight is read by one unit an image, 16 bytes a lane; the layer norm
// before a layer is done again by each unit, which is cheaper than another barrier.
#pragma once
#include "cuda/grid.cuh"

namespace segface::token_attention {

constexpr int STEP_THREADS = 256, STEP_GRID = 64, STEP_WARPS = STEP_THREADS / 32;

enum class Stage { Layer0, Layer1, Final };

struct Linear {
    const float *weight, *bias;
};
struct Norm {
    const float *weight, *bias;
};

struct TokenStepOperands {
    const float *token_pe, *pooled, *q_in;
    int q_in_stride;    // 0 where all images share q, else T·256
    Linear pending_value, pending_out;
    Norm pending_norm;
    Linear mlp1, mlp2;    // hypernetwork at stage Final
    Linear mlp3;
    Norm mlp_norm;
    Linear query, key, value, out;    // image to token
    Linear self_query, self_key, self_value, self_out;
    Norm self_norm;
    Linear next_query, next_key;
    float *q_out, *update_scores, *update_score_bias, *update_values, *attend_scores, *hyper;
    float *workspace;    // [batch, T, STEP_WORKSPACE]
    u32 *counters;       // two, zero before and after
    int batch;
    float eps;
};

// Numbers of working memory per class token.
constexpr int STEP_WORKSPACE = 4864;

// Sums 32 numbers over the lanes; lane l gets the l-th sum. 31 shuffles instead of 160. `D` is known to the compiler, or the
// numbers would lie in local memory.
template <int D = 16>
__device__ __forceinline__ float transpose_reduce(float (&v)[32]) {
    const bool upper = int(threadIdx.x) & D;
#pragma unroll
    for (int i = 0; i < D; i++) {
        const float send = upper ? v[i] : v[i + D], keep = upper ? v[i + D] : v[i];
        v[i] = keep + __shfl_xor_sync(~0u, send, D);
    }
    if constexpr (D > 1) return transpose_reduce<D / 2>(v);
    else return v[0];
}

template <int T, Stage STAGE>
struct TokenStep {
    const TokenStepOperands &o;
    GridBarrier barrier;
    float *plain, *encoded, *parts;    // shared: T rows, T rows with their encoding, sums of warps
    int warp, lane;
    // Working memory, [batch, T, width] each.
    float *inner, *sum1, *q1, *sum2, *q2, *hidden, *projected, *attended, *sum3, *next;

    static constexpr bool LAYER0 = STAGE == Stage::Layer0, FINAL = STAGE == Stage::Final;
    // k, v and either the self-attention's q, k, v or the next query, side by side.
    static constexpr int PROJECTED = LAYER0 ? 1024 : 384;

    __device__ __forceinline__ TokenStep(const TokenStepOperands &operands, float *a, float *b, float *c)
        : o(operands), barrier{operands.counters}, plain(a), encoded(b), parts(c) {
        warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) & 31;
        float *next_free = o.workspace;
        auto take = [&](int width) {
            float *taken = next_free;
            next_free += u64(o.batch) * u32(T * width);
            return taken;
        };
        inner = take(128), sum1 = take(256), q1 = take(256), sum2 = take(256), q2 = take(256), hidden = take(2048);
        projected = take(1024), attended = take(256), sum3 = take(256), next = take(128);
    }

    // Calls unit(image, part) for this block's share of batch × parts.
    template <class Unit>
    __device__ __forceinline__ void units(int parts_of_image, Unit unit) {
        for (int u = int(blockIdx.x); u < o.batch * parts_of_image; u += int(gridDim.x)) {
            __syncthreads();
            unit(u / parts_of_image, u % parts_of_image);
        }
    }

    // T rows of `width` numbers into shared memory.
    __device__ __forceinline__ void stage(const float *rows, int width) const {
        const float4 *source = reinterpret_cast<const float4 *>(rows);
        for (int i = int(threadIdx.x); i < T * width / 4; i += STEP_THREADS) reinterpret_cast<float4 *>(plain)[i] = source[i];
        __syncthreads();
    }

    // T rows of 256 after their norm, and with the class tokens' encoding; the unit of part 0 writes them to `q`.
    __device__ __forceinline__ void stage_normed(const float *rows, const Norm &norm, float *q, bool write) const {
        for (int row = warp; row < T; row += STEP_WARPS) {
            float values[8], sum = 0, squares = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) sum += values[i] = rows[row * 256 + i * 32 + lane];
#pragma unroll
            for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
            const float mean = sum / 256.0f;
#pragma unroll
            for (int i = 0; i < 8; i++) squares += (values[i] - mean) * (values[i] - mean);
#pragma unroll
            for (int d = 1; d < 32; d *= 2) squares += __shfl_xor_sync(~0u, squares, d);
            const float scale = rsqrtf(squares / 256.0f + o.eps);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int at = row * 256 + i * 32 + lane;
                const float value = (values[i] - mean) * scale * norm.weight[i * 32 + lane] + norm.bias[i * 32 + lane];
                plain[at] = value;
                encoded[at] = value + o.token_pe[at];
                if (write) q[at] = value;
            }
        }
        __syncthreads();
    }

    // Products of T rows of K numbers with COLUMNS rows of `weight`, by one warp: write(column, row, sum). `chunk(row, k)` loads four
    // numbers of a row.
    template <int K, int COLUMNS, class ChunkOf, class Write>
    __device__ __forceinline__ void dots(ChunkOf chunk, const float *weight, int weight_stride, Write write) const {
        constexpr int VALUES = round_up(COLUMNS * T, 32);
        float sums[VALUES];
#pragma unroll
        for (int i = 0; i < VALUES; i++) sums[i] = 0.0f;
#pragma unroll 1
        for (int k = lane * 4; k < K; k += 128) {
            float4 w[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) w[c] = *reinterpret_cast<const float4 *>(weight + c * weight_stride + k);
#pragma unroll
            for (int row = 0; row < T; row++) {
                const Chunk words = chunk(row, k);
                float v[4];
#pragma unroll
                for (int i = 0; i < 4; i++) v[i] = __uint_as_float(words.word[i]);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    float &sum = sums[c * T + row];
                    sum = fmaf(v[0], w[c].x, fmaf(v[1], w[c].y, fmaf(v[2], w[c].z, fmaf(v[3], w[c].w, sum))));
                }
            }
        }
#pragma unroll
        for (int i = 0; i < VALUES; i += 32) {
            float group[32];
#pragma unroll
            for (int j = 0; j < 32; j++) group[j] = sums[i + j];
            const float sum = transpose_reduce(group);
            const int index = i + lane;
            if (index < COLUMNS * T) write(index / T, index % T, sum);
        }
    }

    // A layer of n columns on staged rows: 8·COLUMNS columns a unit. write(row, column, sum with bias).
    template <int K, int COLUMNS, class Write>
    __device__ __forceinline__ void columns(const float *x, const Linear &linear, int part, Write write) const {
        const int column = (part * STEP_WARPS + warp) * COLUMNS;
        // By an instruction of ours: NVRTC, when it compiles several kernels at once, now and then loads half of such a chunk twice.
        const u32 staged = shared_address(x);
        const auto chunk = [=](int row, int k) { return load_shared(staged + u32(row * K + k) * 4); };
        dots<K, COLUMNS>(chunk, linear.weight + column * K, K,
                         [&](int c, int row, float sum) { write(row, column + c, sum + linear.bias[column + c]); });
    }

    // out[row(t)] = scale·Σ_d inner[t, h·16 + d]·W[h·16 + d] for some of the tokens t; a thread has one column of 256.
    // W [128, 256], or its transpose.
    template <bool TRANSPOSED, class Row>
    __device__ __forceinline__ void absorb(const float *from, int stride, int head, int group, const float *weight, float scale,
                                           float *out, Row row) const {
        const int column = int(threadIdx.x);
        float w[16];
#pragma unroll
        for (int d = 0; d < 16; d++) {
            w[d] = TRANSPOSED ? weight[column * 128 + head * 16 + d] : weight[(head * 16 + d) * 256 + column];
        }
        for (int t = group; t < T; t += GROUPS) {
            const float *coefficients = from + t * stride + head * 16;
            float sum = 0;
#pragma unroll
            for (int d = 0; d < 16; d++) sum = fmaf(coefficients[d], w[d], sum);
            out[row(t) * 256 + column] = sum * scale;
        }
    }
    static constexpr int GROUPS = 4;    // of class tokens, units of `absorb`

    __device__ __forceinline__ void run() {
        pending();
        if constexpr (FINAL) {
            hypernetwork();
        } else {
            mlp();
            project();
            barrier.meet();
            if constexpr (LAYER0) {
                units(8, [&](int image, int head) { attend(image, head); });
            } else {
                units(8 * GROUPS, [&](int image, int part) { absorb_next(image, part, projected + 256, PROJECTED); });
            }
            units(2 * 8 * GROUPS, [&](int image, int part) { absorb_update(image, part); });
            if constexpr (LAYER0) self_attention_and_next();
        }
        barrier.leave();
    }

    __device__ __forceinline__ void pending() {
        units(16, [&](int image, int part) {
            const int head = part / 2;
            stage(o.pooled + (u64(image) * 8 + head) * T * 256, 256);
            float *out = inner + image * T * 128;
            columns<256, 1>(plain, o.pending_value, part, [&](int row, int column, float sum) { out[row * 128 + column] = sum; });
        });
        barrier.meet();
        units(32, [&](int image, int part) {
            stage(inner + image * T * 128, 128);
            const float *q = o.q_in + u64(image) * u32(o.q_in_stride);
            float *out = sum1 + image * T * 256;
            columns<128, 1>(plain, o.pending_out, part,
                            [&](int row, int column, float sum) { out[row * 256 + column] = sum + q[row * 256 + column]; });
        });
        barrier.meet();
    }

    __device__ __forceinline__ void mlp() {
        units(64, [&](int image, int part) {
            stage_normed(sum1 + image * T * 256, o.pending_norm, q1 + image * T * 256, part == 0);
            float *out = hidden + image * T * 2048;
            // Two columns at a time: four would take a few registers more than two blocks to a multiprocessor leave.
#pragma unroll 1
            for (int half = 0; half < 2; half++) {
                columns<256, 2>(plain, o.mlp1, part * 2 + half,
                                [&](int row, int column, float sum) { out[row * 2048 + column] = fmaxf(sum, 0.0f); });
            }
        });
        barrier.meet();
        // 2048 terms: each warp takes 256 of them for the unit's four columns, straight from memory. Again two columns at a time.
        units(64, [&](int image, int part) {
            const float *x = hidden + image * T * 2048 + warp * 256;
#pragma unroll 1
            for (int half = 0; half < 4; half += 2) {
                const auto chunk = [=](int row, int k) { return load_chunk(x + row * 2048 + k); };
                dots<256, 2>(chunk, o.mlp2.weight + (part * 4 + half) * 2048 + warp * 256, 2048,
                             [&](int c, int row, float sum) { parts[(warp * 4 + half + c) * T + row] = sum; });
            }
            __syncthreads();
            for (int i = int(threadIdx.x); i < 4 * T; i += STEP_THREADS) {
                float sum = 0;
#pragma unroll
                for (int w = 0; w < STEP_WARPS; w++) sum += parts[w * 4 * T + i];
                const int column = part * 4 + i / T, at = (image * T + i % T) * 256 + column;
                sum2[at] = sum + o.mlp2.bias[column] + q1[at];
            }
        });
        barrier.meet();
    }

    __device__ __forceinline__ void project() {
        constexpr int COLUMNS = LAYER0 ? 2 : 1, UNIT = STEP_WARPS * COLUMNS;
        units(PROJECTED / UNIT, [&](int image, int part) {
            float *q = LAYER0 ? q2 : o.q_out;
            stage_normed(sum2 + image * T * 256, o.mlp_norm, q + image * T * 256, part == 0);
            float *out = projected + image * T * PROJECTED;
            auto some = [&](const Linear &linear, const float *x, int begin) {
                columns<256, COLUMNS>(x, linear, part - begin / UNIT,
                                      [&](int row, int column, float sum) { out[row * PROJECTED + begin + column] = sum; });
            };
            const int column = part * UNIT;
            // One call of `columns`, so that it is compiled once. Which layer is chosen by its pointers: chosen as an operand, all
            // operands would lie in local memory.
            const bool key = column < 128, value = column < 256;
            Linear linear = o.value;
            if (key) linear = o.key;
            if constexpr (LAYER0) {
                const bool query = column < 512, self_key = column < 768;
                if (!value) linear = o.self_value;
                if (!value && self_key) linear = o.self_key;
                if (!value && query) linear = o.self_query;
                some(linear, key || (!value && self_key) ? encoded : plain,
                     key ? 0 : value ? 128 : query ? 256 : self_key ? 512 : 768);
            } else {
                if (!value) linear = o.next_query;
                some(linear, key || !value ? encoded : plain, key ? 0 : value ? 128 : 256);
            }
        });
    }

    // A_u, c_u and V_u.
    __device__ __forceinline__ void absorb_update(int image, int part) {
        const int group = part % GROUPS, head = part / GROUPS % 8;
        const float *from = projected + image * T * PROJECTED;
        const u64 rows = u64(image) * 8 * T;
        auto row = [&](int t) { return t * 8 + head; };
        if (part < 8 * GROUPS) {
            absorb<false>(from, PROJECTED, head, group, o.query.weight, 0.25f, o.update_scores + rows * 256, row);
            const int t = int(threadIdx.x);
            if (group == 0 && t < T) {
                float sum = 0;
#pragma unroll
                for (int d = 0; d < 16; d++) sum = fmaf(from[t * PROJECTED + head * 16 + d], o.query.bias[head * 16 + d], sum);
                o.update_score_bias[rows + row(t)] = sum * 0.25f;
            }
        } else {
            absorb<true>(from + 128, PROJECTED, head, group, o.out.weight, 1.0f, o.update_values + rows * 256, row);
        }
    }

    // A_a
    __device__ __forceinline__ void absorb_next(int image, int part, const float *query, int stride) {
        const int group = part % GROUPS, head = part / GROUPS;
        absorb<false>(query + image * T * stride, stride, head, group, o.next_key.weight, 0.25f,
                      o.attend_scores + u64(image) * (8 * T * 256), [&](int t) { return head * T + t; });
    }

    // A head of the self-attention, 32 wide.
    __device__ __forceinline__ void attend(int image, int head) {
        const float *from = projected + image * T * PROJECTED + 256 + head * 32;
        // Rows one number apart more than their width: a column of them lies in different banks.
        float *q = plain, *k = plain + T * 33, *v = plain + 2 * T * 33, *p = encoded;
        for (int i = int(threadIdx.x); i < T * 32; i += STEP_THREADS) {
            const int at = i / 32 * PROJECTED + i % 32, to = i / 32 * 33 + i % 32;
            q[to] = from[at], k[to] = from[at + 256], v[to] = from[at + 512];
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < T * T; i += STEP_THREADS) {
            float sum = 0;
#pragma unroll
            for (int d = 0; d < 32; d++) sum = fmaf(q[i / T * 33 + d], k[i % T * 33 + d], sum);
            p[i] = sum * 0.17677669529663687f;
        }
        __syncthreads();
        for (int row = warp; row < T; row += STEP_WARPS) {
            const float s = lane < T ? p[row * T + lane] : -3.0e38f;
            float top = s;
#pragma unroll
            for (int d = 1; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
            const float e = lane < T ? expf(s - top) : 0.0f;
            float sum = e;
#pragma unroll
            for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
            if (lane < T) p[row * T + lane] = e / sum;
        }
        __syncthreads();
        for (int i = int(threadIdx.x); i < T * 32; i += STEP_THREADS) {
            float sum = 0;
#pragma unroll
            for (int j = 0; j < T; j++) sum = fmaf(p[i / 32 * T + j], v[j * 33 + i % 32], sum);
            attended[(image * T + i / 32) * 256 + head * 32 + i % 32] = sum;
        }
    }

    __device__ __forceinline__ void self_attention_and_next() {
        barrier.meet();
        units(32, [&](int image, int part) {
            stage(attended + image * T * 256, 256);
            columns<256, 1>(plain, o.self_out, part, [&](int row, int column, float sum) {
                const int at = (image * T + row) * 256 + column;
                sum3[at] = sum + q2[at];
            });
        });
        barrier.meet();
        units(16, [&](int image, int part) {
            stage_normed(sum3 + image * T * 256, o.self_norm, o.q_out + image * T * 256, part == 0);
            columns<256, 1>(encoded, o.next_query, part,
                            [&](int row, int column, float sum) { next[(image * T + row) * 128 + column] = sum; });
        });
        barrier.meet();
        units(8 * GROUPS, [&](int image, int part) { absorb_next(image, part, next, 128); });
    }

    __device__ __forceinline__ void hypernetwork() {
        units(32, [&](int image, int part) {
            stage_normed(sum1 + image * T * 256, o.pending_norm, o.q_out + image * T * 256, part == 0);
            columns<256, 1>(plain, o.mlp1, part, [&](int row, int column, float sum) {
                sum2[(image * T + row) * 256 + column] = fmaxf(sum, 0.0f);
            });
        });
        barrier.meet();
        units(32, [&](int image, int part) {
            stage(sum2 + image * T * 256, 256);
            columns<256, 1>(plain, o.mlp2, part, [&](int row, int column, float sum) {
                sum3[(image * T + row) * 256 + column] = fmaxf(sum, 0.0f);
            });
        });
        barrier.meet();
        units(4, [&](int image, int part) {
            stage(sum3 + image * T * 256, 256);
            columns<256, 1>(plain, o.mlp3, part,
                            [&](int row, int column, float sum) { o.hyper[(image * T + row) * 32 + column] = sum; });
        });
    }
};

// One step: a cooperative launch of STEP_GRID blocks of STEP_THREADS.
template <int T, Stage STAGE>
__device__ __forceinline__ void token_step(const TokenStepOperands &operands) {
    static_assert(T <= 32, "a class token is a lane of the self-attention's softmax");
    __shared__ __align__(16) float plain[T * 256], encoded[T * 256], parts[STEP_WARPS * 4 * T];
    TokenStep<T, STAGE>(operands, plain, encoded, parts).run();
}

}  // namespace segface::token_attention
