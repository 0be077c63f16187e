// Attention of 16 queries of one window and head, by one warp, from tiles of queries, keys and values in shared memory.
//
//     out = softmax(q · kᵀ + position bias + mask) · v
//
// Scores stay in registers: the sums of the first product are, in a suitable order of the keys, fragments of the second
// product's first operand, so probabilities never go through memory. Everything is in units of ln 2 (queries carry the factor
// log2 e, so does the packed position bias), so that exponentials are powers of two.
#pragma once
#include "cuda/mma.cuh"
#include "window_attention/geometry.cuh"

namespace segface::window_attention {

constexpr int HEAD = 32;
constexpr int TOKENS = 64;
constexpr float LOG2_E = 1.4426950408889634f;
// What is added to scores of pairs of different regions.
constexpr float MASK = -100.0f * LOG2_E;

// Groups of eight keys that hold any.
template <int WINDOW>
constexpr int KEY_ATOMS = ceil_divide(WINDOW * WINDOW, 8);

// The position bias comes as fragments of scores (`segface_kernels::cuda::pack_position_bias`): [heads, 4 groups of 16 queries,
// KEY_ATOMS, 32 lanes, 4], times log2 e, −∞ for keys past the window.
template <int WINDOW>
constexpr int BIAS_FRAGMENTS = KEY_ATOMS<WINDOW> * 32 * 4;

// Fragments of probabilities made from scores [16, 64], and of the values they meet.
template <class P>
struct Mixing {
    using M = Mma<P>;
    static constexpr int STEPS = TOKENS / M::K;
    static __device__ __forceinline__ typename M::A probabilities(const float (&p)[8][4], int step) {
        using E = typename P::Element;
        return {{pack<E>(p[2 * step][0], p[2 * step][1]), pack<E>(p[2 * step][2], p[2 * step][3]),
                 pack<E>(p[2 * step + 1][0], p[2 * step + 1][1]), pack<E>(p[2 * step + 1][2], p[2 * step + 1][3])}};
    }
    template <class T>
    static __device__ __forceinline__ typename M::B values(const T &v, int step, int n) {
        return M::load_b_columns(v, step * M::K, n);
    }
};

// Of eight keys a lane has 2t and 2t + 1. The instruction takes them for t and t + 4: a permutation of the keys, which the values
// undergo too.
template <>
struct Mixing<Tf32> {
    using M = Mma<Tf32>;
    static constexpr int STEPS = TOKENS / M::K;
    static __device__ __forceinline__ M::A probabilities(const float (&p)[8][4], int step) {
        return {{round_tf32(__float_as_uint(p[step][0])), round_tf32(__float_as_uint(p[step][2])),
                 round_tf32(__float_as_uint(p[step][1])), round_tf32(__float_as_uint(p[step][3]))}};
    }
    template <class T>
    static __device__ __forceinline__ M::B values(const T &v, int step, int n) {
        const int lane = lane_id(), g = lane >> 2, t = lane & 3, key = step * M::K + 2 * t;
        return {{round_tf32(load_word(v.element(key, n + g))), round_tf32(load_word(v.element(key + 1, n + g)))}};
    }
};

// Each lane of a row needs all four keys; two lanes have them.
template <>
struct Mixing<Single> {
    using M = Mma<Single>;
    static constexpr int STEPS = TOKENS / M::K;
    static __device__ __forceinline__ M::A probabilities(const float (&p)[8][4], int step) {
        M::A a;
        const int first = (lane_id() & ~3) + step % 2 * 2;
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a.row[half].word[i] = __float_as_uint(__shfl_sync(~0u, p[step / 2][half * 2 + i % 2], first + i / 2));
            }
        return a;
    }
    template <class T>
    static __device__ __forceinline__ M::B values(const T &v, int step, int n) {
        return M::load_b_columns(v, step * M::K, n);
    }
};

// The warp's 16 queries begin at `row` of tile `q`; position bias of the head's and the queries' fragments. Overwrites the warp's
// rows of `q` with the result. `window` as in `Plan::pixel`.
template <class P, int WINDOW, class T>
__device__ __forceinline__ void attend(const T &q, const T &k, const T &v, int row, const float *position_bias, const Plan<WINDOW> &plan,
                                       int window) {
    using M = Mma<P>;
    constexpr int KEYS = KEY_ATOMS<WINDOW>;
    const int lane = lane_id(), g = lane >> 2, t = lane & 3;
    float scores[8][4];
#pragma unroll
    for (int n = 0; n < KEYS; n++) {
        const Chunk bias = load_chunk(position_bias + n * 128 + lane * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = __uint_as_float(bias.word[i]);
    }
#pragma unroll
    for (int d = 0; d < HEAD; d += M::K) {
        const typename M::A a = M::load_a(q, row, d);
#pragma unroll
        for (int n = 0; n < KEYS; n++) M::multiply(scores[n], a, M::load_b_rows(k, n * 8, d));
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int query = row + half * 8 + g;
        const u64 apart = query < WINDOW * WINDOW ? plan.apart(window, query) >> 2 * t : 0;
        if (apart != 0) {
#pragma unroll
            for (int n = 0; n < KEYS; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    if (apart >> (n * 8 + j) & 1) scores[n][half * 2 + j] += MASK;
                }
        }
    }
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = scores[0][half * 2], sum = 0;
#pragma unroll
        for (int n = 0; n < KEYS; n++) largest = fmaxf(largest, fmaxf(scores[n][half * 2], scores[n][half * 2 + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
#pragma unroll
        for (int n = 0; n < KEYS; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                scores[n][half * 2 + j] = exp2f(scores[n][half * 2 + j] - largest);
                sum += scores[n][half * 2 + j];
            }
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        inverse[half] = 1.0f / sum;
    }
#pragma unroll
    for (int n = KEYS; n < 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[n][i] = 0.0f;

    float mixed[HEAD / 8][4] = {};
#pragma unroll
    for (int step = 0; step < Mixing<P>::STEPS; step++) {
        if (step * M::K >= WINDOW * WINDOW) continue;
        const typename M::A a = Mixing<P>::probabilities(scores, step);
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) M::multiply(mixed[n], a, Mixing<P>::values(v, step, n * 8));
    }
    // All lanes have read their queries.
    __syncwarp();
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            q.store_pair(row + half * 8 + g, n * 8 + 2 * t, mixed[n][half * 2] * inverse[half], mixed[n][half * 2 + 1] * inverse[half]);
        }
    __syncwarp();
}

}  // namespace segface::window_attention
