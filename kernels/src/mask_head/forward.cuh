// From image tokens to labels (`segface_kernels::mask_head::MaskHeadSpec`). Per token of 256:
//
//   a = gelu(norm(W1·x + b1))      4 outer sub-pixels × 64, each 64 normed (ε 1e-6)
//   u = gelu(W2·a + b2)            4 inner sub-pixels × 32 for each outer one
//   logits[c] = hyper[c]·u         T classes for each of the 16 pixels
//
// x [batch, h, w, 256], W1 [4·64, 256] and W2 [4·32, 64] packed, hyper f32 [batch, T, 32]; labels u8 [batch, 4h, 4w], the first of equal
// maxima, or logits f32 [batch, 4h, 4w, T]. FLOPs 2·(256·256 + 4·64·128 + 16·32·T) a token; memory sees x once, the weights from the
// second-level cache, one byte a pixel. Nothing in between leaves the chip.
//
// A block takes ROWS tokens of one image. Warp (m, n) makes outer sub-pixel n of its rows in the first product, so norm, second product and
// hypernetwork product of it are the warp's own: no barrier but that of the second weight. Results are gathered in shared memory: labels
// of the whole tile leave as one word per token and line of pixels, logits of two lines of 16 tokens a warp in chunks of 16 bytes, a
// token's 4 pixels side by side, so that whole sectors are written.
#pragma once
#include "cuda/activation.cuh"
#include "cuda/resident.cuh"

namespace segface::mask_head {

struct Operands {
    const void *x;
    const u8 *weight1;
    const float *bias1, *norm_weight, *norm_bias;
    const u8 *weight2;
    const float *bias2, *hyper;
    u8 *labels;       // one of the two
    float *logits;
    int height, width;    // of the map of tokens
};

template <class P_, int CLASSES_, bool LABELS_>
struct MaskHead {
    using P = P_;
    using E = typename P::Element;
    using M = Mma<P>;
    static constexpr int CLASSES = CLASSES_, ROWS = sizeof(E) == 2 ? 64 : 32, WARPS_M = 2, WARPS_N = 4, THREADS = 256;
    static constexpr bool LABELS = LABELS_;
    using First = Resident<P, ROWS, 32, WARPS_M, WARPS_N, 2>;
    static constexpr int M_ATOMS = First::M_ATOMS, WARP_ROWS = First::WARP_ROWS, CLASS_ATOMS = ceil_divide(CLASSES, 8);
    using XTile = Tile<E, 256>;
    using UTile = Tile<E, 32>;
    static constexpr int WEIGHT2_BYTES = 64 / PACK_K<P> * 16 * PACK_BYTES;
    static constexpr int X_BYTES = XTile::bytes(ROWS), BUFFER_BYTES = First::BYTES, U_BYTES = UTile::bytes(WARP_ROWS);
    static constexpr int HYPER_BYTES = UTile::bytes(CLASS_ATOMS * 8);
    // Logits lie behind the second weight, over what is left of the buffer and over u: [2 lines][TOKENS][4 pixels][CLASSES], an odd
    // number of chunks a token. Then a warp's store of 8 tokens × 4 pairs, of even tokens the even class of a pair and of odd ones the
    // odd class, is in 32 banks.
    static constexpr int TOKENS = WARPS_M * 16, TOKEN_BYTES = (CLASSES | 1) * 16, LOGITS_BYTES = 2 * TOKENS * TOKEN_BYTES;
    static constexpr int U_ALL_BYTES = WARPS_M * WARPS_N * U_BYTES, OVER_BYTES = BUFFER_BYTES - WEIGHT2_BYTES + U_ALL_BYTES;
    static constexpr int GATHER_BYTES = LABELS ? ROWS * 16 : LOGITS_BYTES > OVER_BYTES ? LOGITS_BYTES - OVER_BYTES : 0;
    static constexpr int BYTES = X_BYTES + BUFFER_BYTES + U_ALL_BYTES + GATHER_BYTES + HYPER_BYTES;
    static_assert(WEIGHT2_BYTES <= BUFFER_BYTES, "the second weight lies where the first was streamed");

    static __device__ __forceinline__ void run(const Operands &o) {
        const u32 x_base = shared_address(shared_memory), buffer = x_base + X_BYTES, u_base = buffer + BUFFER_BYTES;
        const u32 label_base = u_base + U_ALL_BYTES, hyper_base = label_base + GATHER_BYTES;
        const int thread = int(threadIdx.x), lane = lane_id(), g = lane >> 2, t = lane & 3, warp = thread / 32;
        const int image = int(blockIdx.y), first = int(blockIdx.x) * ROWS, tokens = o.height * o.width;
        const int row0 = First::warp_row(), outer = First::warp_n();
        const XTile tile{x_base};
        const UTile hyper{hyper_base}, u_tile{u_base + u32(warp) * U_BYTES};

        const E *x = static_cast<const E *>(o.x) + u64(image) * u32(tokens) * 256;
        constexpr int CHUNKS = 256 / CHUNK<E>;
        for (int i = thread; i < ROWS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const bool there = first + row < tokens;
            copy_async(tile.address(row, chunk), x + u64(there ? first + row : 0) * 256 + chunk * CHUNK<E>, there ? 16 : 0);
        }
        commit_copies();
        for (int i = thread; i < CLASS_ATOMS * 8 * 16; i += THREADS) {
            const int row = i / 16, column = i % 16 * 2;
            const float *source = o.hyper + (image * CLASSES + row) * 32 + column;
            hyper.store_pair(row, column, row < CLASSES ? source[0] : 0.0f, row < CLASSES ? source[1] : 0.0f);
        }

        {
            typename First::Sums sums;
            First::run(sums, tile, o.weight1, 256, 32, buffer);
            for (int i = thread; i < WEIGHT2_BYTES / 16; i += THREADS) copy_async(buffer + u32(i) * 16, o.weight2 + i * 16);
            commit_copies();
            norm_and_gelu(o, sums, tile, row0, outer * 64, t, g);
        }
        wait_copies<0>();
        __syncthreads();

        if constexpr (LABELS) {
#pragma unroll 1
            for (int inner = 0; inner < 4; inner++) {
                Logits logits;
                sub_pixel(logits, o, tile, u_tile, hyper, buffer, row0, outer, inner, t, g);
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        // The pixel's place in the token's 4 × 4.
                        const int line = outer / 2 * 2 + inner / 2, column = outer % 2 * 2 + inner % 2;
                        const int row = row0 + m * 16 + half * 8 + g, label = first_maximum(logits[m], half, t);
                        const u32 target = label_base + u32((line * ROWS + row) * 4 + column);
                        if (t == 0) asm volatile("st.shared.u8 [%0], %1;" ::"r"(target), "r"(label) : "memory");
                    }
            }
            __syncthreads();
            for (int i = thread; i < ROWS * 4; i += THREADS) {
                const int line = i / ROWS, row = i % ROWS, token = first + row;
                if (token >= tokens) continue;
                const u64 y = u64(image) * u32(o.height * 4) + u32(token / o.width * 4 + line);
                u32 *out = reinterpret_cast<u32 *>(o.labels) + y * u32(o.width) + u32(token % o.width);
                *out = load_word(label_base + u32(i) * 4);
            }
        } else {
            const u32 logits_base = buffer + WEIGHT2_BYTES;
#pragma unroll 1
            for (int line = 0; line < 2; line++) {
                Logits left = {}, right = {};
                // Not unrolled: two sub-pixels at once are more registers than there are.
#pragma unroll 1
                for (int column = 0; column < 2; column++) {
#pragma unroll
                    for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                        for (int n = 0; n < CLASS_ATOMS; n++)
#pragma unroll
                            for (int i = 0; i < 4; i++) left[m][n][i] = right[m][n][i];
                    sub_pixel(right, o, tile, u_tile, hyper, buffer, row0, outer, line * 2 + column, t, g);
                }
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++) {
                    // u, or the logits before, have been read.
                    __syncthreads();
                    gather(left[m], logits_base, outer, 0, t, g);
                    gather(right[m], logits_base, outer, 1, t, g);
                    __syncthreads();
                    for (int i = thread; i < 2 * TOKENS * CLASSES; i += THREADS) {
                        const int chunk = i % CLASSES, slot = i / CLASSES, row = slot % TOKENS;
                        const int token = first + row / 16 * WARP_ROWS + m * 16 + row % 16;
                        if (token >= tokens) continue;
                        const int y = token / o.width * 4 + slot / TOKENS * 2 + line;
                        const u64 place = (u64(image) * u32(o.height * 4) + u32(y)) * u32(o.width) + u32(token % o.width);
                        const Chunk some = load_shared(logits_base + u32(slot * TOKEN_BYTES + chunk * 16));
                        store_chunk(o.logits + (place * CLASSES + chunk) * 4, some);
                    }
                }
                // The next line's u takes their place.
                __syncthreads();
            }
        }
    }

    using Logits = float[M_ATOMS][CLASS_ATOMS][4];

    // Logits of one of a token's 16 pixels: second product, GELU, product with the hypernetwork's filters. u is the warp's own.
    static __device__ __forceinline__ void sub_pixel(Logits &logits, const Operands &o, const XTile &tile, const UTile &u_tile,
                                                     const UTile &hyper, u32 buffer, int row0, int outer, int inner, int t, int g) {
        {
            float sums[M_ATOMS][4][4] = {};
            constexpr int PACKS = 64 / PACK_K<P>;
#pragma unroll
            for (int pack = 0; pack < PACKS; pack++) {
                typename M::A rows[M_ATOMS][M::PACK_STEPS];
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                    for (int s = 0; s < M::PACK_STEPS; s++) {
                        rows[m][s] = M::load_a(tile, row0 + m * 16, outer * 64 + pack * PACK_K<P> + s * M::K);
                    }
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    typename M::B weight[M::PACK_STEPS];
                    M::load_b_packed(weight, buffer + u32(pack * 16 + inner * 4 + n) * PACK_BYTES);
#pragma unroll
                    for (int s = 0; s < M::PACK_STEPS; s++)
#pragma unroll
                        for (int m = 0; m < M_ATOMS; m++) M::multiply(sums[m][n], rows[m][s], weight[s]);
                }
            }
            // All lanes are past their use of the u before.
            __syncwarp();
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const float2 bias = *reinterpret_cast<const float2 *>(o.bias2 + n * 8 + 2 * t);
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        u_tile.store_pair(m * 16 + half * 8 + g, n * 8 + 2 * t, gelu(sums[m][n][2 * half] + bias.x),
                                          gelu(sums[m][n][2 * half + 1] + bias.y));
                    }
            }
        }
        __syncwarp();
        clear(logits);
#pragma unroll
        for (int k = 0; k < 32; k += M::K) {
            typename M::A rows[M_ATOMS];
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++) rows[m] = M::load_a(u_tile, m * 16, k);
#pragma unroll
            for (int n = 0; n < CLASS_ATOMS; n++) {
                const typename M::B filter = M::load_b_rows(hyper, n * 8, k);
#pragma unroll
                for (int m = 0; m < M_ATOMS; m++) M::multiply(logits[m][n], rows[m], filter);
            }
        }
    }

    // Logits of 16 tokens of a warp, at one column of one line, to where the block gathers them.
    static __device__ __forceinline__ void gather(const float (&logits)[CLASS_ATOMS][4], u32 base, int outer, int column, int t, int g) {
        const int slot = outer / 2 * TOKENS + int(threadIdx.x) / 32 % WARPS_M * 16 + g, odd = g & 1;
        const u32 target = base + u32(slot * TOKEN_BYTES + ((outer % 2 * 2 + column) * CLASSES + 2 * t) * 4);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < CLASS_ATOMS; n++)
#pragma unroll
                for (int turn = 0; turn < 2; turn++) {
                    const int j = turn ^ odd;
                    const float value = odd ? logits[n][2 * half + (turn ^ 1)] : logits[n][2 * half + turn];
                    if (n * 8 + 2 * t + j < CLASSES) store_number(target + u32(half * 8 * TOKEN_BYTES + (n * 8 + j) * 4), value);
                }
    }

    // sums → gelu(norm(sums + b1)) into the tile's columns of this warp; a warp has all 64 of a sub-pixel.
    static __device__ __forceinline__ void norm_and_gelu(const Operands &o, typename First::Sums &sums, const XTile &tile, int row0,
                                                         int column0, int t, int g) {
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 bias = *reinterpret_cast<const float2 *>(o.bias1 + n * 8 + 2 * t);
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] += i % 2 ? bias.y : bias.x;
        }
        float mean[M_ATOMS][2], scale[M_ATOMS][2];
#pragma unroll
        for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float sum = 0, squares = 0;
#pragma unroll
                for (int n = 0; n < 8; n++) sum += sums[m][n][2 * half] + sums[m][n][2 * half + 1];
                mean[m][half] = across_quad(sum) / 64.0f;
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const float d = sums[m][n][2 * half + j] - mean[m][half];
                        squares += d * d;
                    }
                scale[m][half] = rsqrtf(across_quad(squares) / 64.0f + 1e-6f);
            }
#pragma unroll
        for (int n = 0; n < 8; n++) {
            const float2 weight = *reinterpret_cast<const float2 *>(o.norm_weight + n * 8 + 2 * t);
            const float2 bias = *reinterpret_cast<const float2 *>(o.norm_bias + n * 8 + 2 * t);
#pragma unroll
            for (int m = 0; m < M_ATOMS; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float low = (sums[m][n][2 * half] - mean[m][half]) * scale[m][half] * weight.x + bias.x;
                    const float high = (sums[m][n][2 * half + 1] - mean[m][half]) * scale[m][half] * weight.y + bias.y;
                    tile.store_pair(row0 + m * 16 + half * 8 + g, column0 + n * 8 + 2 * t, gelu(low),
                                    gelu(high));
                }
        }
    }
    static __device__ __forceinline__ float across_quad(float x) {
        x += __shfl_xor_sync(~0u, x, 1);
        return x + __shfl_xor_sync(~0u, x, 2);
    }

    // Class of the largest logit of row `half` of an atom, the first of equal ones; a quad of lanes has the row.
    static __device__ __forceinline__ int first_maximum(const float (&logits)[CLASS_ATOMS][4], int half, int t) {
        float best = 2 * t < CLASSES ? logits[0][2 * half] : -3.0e38f;
        int label = 2 * t;
#pragma unroll
        for (int n = 0; n < CLASS_ATOMS; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int c = n * 8 + 2 * t + j;
                const bool better = c < CLASSES && logits[n][2 * half + j] > best;
                best = better ? logits[n][2 * half + j] : best;
                label = better ? c : label;
            }
#pragma unroll
        for (int d = 1; d < 4; d *= 2) {
            const float other = __shfl_xor_sync(~0u, best, d);
            const int other_label = __shfl_xor_sync(~0u, label, d);
            const bool better = other > best || (other == best && other_label < label);
            best = better ? other : best;
            label = better ? other_label : label;
        }
        return label;
    }
    static_assert(CLASSES <= 256, "a label is a byte");
};

// Bytes of dynamic shared memory.
template <class Head>
constexpr int bytes() {
    return Head::BYTES;
}

// Grid (tiles of an image, batch).
template <class Head>
__device__ __forceinline__ void forward(const Operands &operands) {
    Head::run(operands);
}

constexpr int PLAIN_THREADS = 256;

// Un-fused part: logits[b, p, c] = hyper[b, c]·u[b, p], u [batch, pixels, 32], one thread a pixel. Grid (blocks of pixels, batch).
template <class E, int CLASSES>
__device__ __forceinline__ void mask_product(const E *u, const float *hyper, float *logits, int pixels) {
    __shared__ __align__(16) float filters[CLASSES * 32];
    const int image = int(blockIdx.y), pixel = int(blockIdx.x) * PLAIN_THREADS + int(threadIdx.x);
    // Rounded like every operand of a product.
    for (int i = int(threadIdx.x); i < CLASSES * 32; i += PLAIN_THREADS) {
        filters[i] = widen(narrow<E>(hyper[image * CLASSES * 32 + i]));
    }
    __syncthreads();
    if (pixel >= pixels) return;
    const u64 row = u64(image) * u32(pixels) + u32(pixel);
    float values[32];
#pragma unroll
    for (int i = 0; i < 32; i += CHUNK<E>) {
        float some[CHUNK<E>];
        unpack<E>(*reinterpret_cast<const Chunk *>(u + row * 32 + i), some);
#pragma unroll
        for (int v = 0; v < CHUNK<E>; v++) values[i + v] = some[v];
    }
    for (int c = 0; c < CLASSES; c++) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 32; i++) sum = fmaf(values[i], filters[c * 32 + i], sum);
        logits[row * CLASSES + c] = sum;
    }
}

// Un-fused part: the first of equal maxima of each row [rows, CLASSES]. Grid (blocks of rows).
template <int CLASSES>
__device__ __forceinline__ void arg_max(const float *logits, u8 *labels, int rows) {
    const int row = int(blockIdx.x) * PLAIN_THREADS + int(threadIdx.x);
    if (row >= rows) return;
    const float *source = logits + u64(u32(row)) * CLASSES;
    float best = source[0];
    int label = 0;
    for (int c = 1; c < CLASSES; c++) {
        const float value = source[c];
        if (value > best) best = value, label = c;
    }
    labels[row] = u8(label);
}

}  // namespace segface::mask_head
