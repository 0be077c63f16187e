// The atom of every product: 16 rows × 8 columns of sums, a warp's fragments of both operands, and how they meet.
//
// All precisions share one layout of sums: with g = lane / 4 and t = lane % 4, sums 0, 1 of a lane are row g, columns 2t and
// 2t + 1; sums 2, 3 are row g + 8. So whatever is built of these atoms is written once.
#pragma once
#include "cuda/memory.cuh"

namespace segface {

__device__ __forceinline__ int lane_id() { return int(threadIdx.x & 31); }

__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices(u32 (&r)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ u32 load_word(u32 address) {
    u32 x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}

// Packed weights (`segface_kernels::cuda::pack`) are blocks of 512 bytes: 8 columns of n × PACK_K of k, in the order in which a
// warp reads them, blocks with neighbouring n side by side.
constexpr int PACK_BYTES = 512;
constexpr int PACK_COLUMNS = 8;
template <class P>
constexpr int PACK_K = 64 / int(sizeof(typename P::Element));

// 16-bit elements: mma.m16n8k16.
template <class P>
struct Mma {
    using E = typename P::Element;
    static constexpr int K = 16;
    static constexpr int PACK_STEPS = PACK_K<P> / K;
    // Whether `multiply_pack` takes the place of `multiply` in long sums.
    static constexpr bool SUMS_PACKS = false;
    struct A {
        u32 r[4];
    };
    struct B {
        u32 r[2];
    };
    // Rows row .. row + 16 and columns k .. k + 16 of a tile.
    template <class T>
    static __device__ __forceinline__ A load_a(const T &tile, int row, int k) {
        A a;
        const int lane = lane_id();
        load_matrices(a.r, tile.address(row + (lane & 15), k / 8 + (lane >> 4)));
        return a;
    }
    // The second operand from a tile [n][k]: columns n .. n + 8 of the product are rows of the tile.
    template <class T>
    static __device__ __forceinline__ B load_b_rows(const T &tile, int n, int k) {
        B b;
        const int lane = lane_id();
        load_matrices(b.r, tile.address(n + (lane & 7), k / 8 + ((lane >> 3) & 1)));
        return b;
    }
    // The second operand from a tile [k][n].
    template <class T>
    static __device__ __forceinline__ B load_b_columns(const T &tile, int k, int n) {
        B b;
        const int lane = lane_id();
        load_matrices_transposed(b.r, tile.address(k + (lane & 15), n / 8));
        return b;
    }
    // The fragments of a packed block in shared memory.
    static __device__ __forceinline__ void load_b_packed(B (&b)[PACK_STEPS], u32 block) {
        const Chunk c = load_shared(block + u32(lane_id()) * 16);
        b[0] = B{{c.word[0], c.word[1]}};
        b[1] = B{{c.word[2], c.word[3]}};
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b) {
        if constexpr (sizeof(E) == 2) {
            multiply(c, a, b, E{});
        }
    }

private:
    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b, f16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b, bf16) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
    }
};

// tf32: mma.m16n8k8. An 8×8 matrix of 16-bit pairs is an 8×4 matrix of f32, so ldmatrix serves here too.
template <>
struct Mma<Tf32> {
    using E = float;
    static constexpr int K = 8;
    static constexpr int PACK_STEPS = PACK_K<Tf32> / K;
    static constexpr bool SUMS_PACKS = false;
    struct A {
        u32 r[4];
    };
    struct B {
        u32 r[2];
    };
    template <class T>
    static __device__ __forceinline__ A load_a(const T &tile, int row, int k) {
        A a;
        const int lane = lane_id();
        load_matrices(a.r, tile.address(row + (lane & 15), k / 4 + (lane >> 4)));
#pragma unroll
        for (int i = 0; i < 4; i++) a.r[i] = round_tf32(a.r[i]);
        return a;
    }
    template <class T>
    static __device__ __forceinline__ B load_b_rows(const T &tile, int n, int k) {
        B b;
        const int lane = lane_id();
        load_matrices(b.r, tile.address(n + (lane & 7), k / 4 + ((lane >> 3) & 1)));
        b.r[0] = round_tf32(b.r[0]);
        b.r[1] = round_tf32(b.r[1]);
        return b;
    }
    template <class T>
    static __device__ __forceinline__ B load_b_columns(const T &tile, int k, int n) {
        const int lane = lane_id(), g = lane >> 2, t = lane & 3;
        return B{{round_tf32(load_word(tile.element(k + t, n + g))), round_tf32(load_word(tile.element(k + t + 4, n + g)))}};
    }
    // Weights were rounded when they were packed.
    static __device__ __forceinline__ void load_b_packed(B (&b)[PACK_STEPS], u32 block) {
        const Chunk c = load_shared(block + u32(lane_id()) * 16);
        b[0] = B{{c.word[0], c.word[1]}};
        b[1] = B{{c.word[2], c.word[3]}};
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b) {
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
    }
};

// f32 by fused multiply-adds, four of k at a time, in the same layout of sums.
template <>
struct Mma<Single> {
    using E = float;
    static constexpr int K = 4;
    static constexpr int PACK_STEPS = PACK_K<Single> / K;
    static constexpr bool SUMS_PACKS = true;
    struct A {
        Chunk row[2];
    };
    // Four of k for the lane's two columns.
    struct B {
        Chunk column[2];
    };
    template <class T>
    static __device__ __forceinline__ A load_a(const T &tile, int row, int k) {
        const int g = lane_id() >> 2;
        return A{{load_shared(tile.address(row + g, k / 4)), load_shared(tile.address(row + g + 8, k / 4))}};
    }
    template <class T>
    static __device__ __forceinline__ B load_b_rows(const T &tile, int n, int k) {
        const int t = lane_id() & 3;
        return B{{load_shared(tile.address(n + 2 * t, k / 4)), load_shared(tile.address(n + 2 * t + 1, k / 4))}};
    }
    template <class T>
    static __device__ __forceinline__ B load_b_columns(const T &tile, int k, int n) {
        B b;
        const int t = lane_id() & 3;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u32 address = tile.element(k + i, n + 2 * t);
            b.column[0].word[i] = load_word(address);
            b.column[1].word[i] = load_word(address + 4);
        }
        return b;
    }
    static __device__ __forceinline__ void load_b_packed(B (&b)[PACK_STEPS], u32 block) {
        const int t = lane_id() & 3;
#pragma unroll
        for (int step = 0; step < PACK_STEPS; step++) {
            const u32 address = block + u32(step * PACK_COLUMNS + 2 * t) * 16;
            b[step] = B{{load_shared(address), load_shared(address + 16)}};
        }
    }
    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                c[i] = fmaf(__uint_as_float(a.row[i / 2].word[k]), __uint_as_float(b.column[i % 2].word[k]), c[i]);
            }
        }
    }
    // A packed block's worth of k. Its terms are summed on their own before they meet the long sum, so that an error grows with the
    // root of k / 16 instead of k, for one addition in 16.
    static __device__ __forceinline__ void multiply_pack(float (&c)[4], const A (&a)[PACK_STEPS], const B (&b)[PACK_STEPS]) {
        float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int step = 0; step < PACK_STEPS; step++) multiply(part, a[step], b[step]);
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] += part[i];
    }
};

}  // namespace segface
