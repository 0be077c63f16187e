// Moving bytes: asynchronous copies into shared memory, 16-byte accesses, swizzled tiles.
#pragma once
#include "cuda/number.cuh"

namespace segface {

// Address of dynamic shared memory, the one declaration of it.
extern __shared__ __align__(128) u8 shared_memory[];

__device__ __forceinline__ u32 shared_address(const void *pointer) { return u32(__cvta_generic_to_shared(pointer)); }

// Starts a copy of 16 bytes into shared memory: the first `valid` come from `source`, the rest are zeros. `source` must be
// a valid address also where `valid` is 0.
__device__ __forceinline__ void copy_async(u32 target, const void *source, int valid = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid) : "memory");
}

// Closes a group of the copies started so far.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `PENDING` of this thread's groups are under way.
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

__device__ __forceinline__ Chunk load_chunk(const void *source) { return *static_cast<const Chunk *>(source); }
__device__ __forceinline__ void store_chunk(void *target, const Chunk &chunk) { *static_cast<Chunk *>(target) = chunk; }

// N (a multiple of 4) floats at an address that is a multiple of 16.
template <int N>
__device__ __forceinline__ void load_floats(float (&values)[N], const float *source) {
    static_assert(N % 4 == 0, "whole chunks");
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const Chunk chunk = load_chunk(source + i);
#pragma unroll
        for (int j = 0; j < 4; j++) values[i + j] = __uint_as_float(chunk.word[j]);
    }
}

__device__ __forceinline__ Chunk load_shared(u32 address) {
    Chunk c;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(c.word[0]), "=r"(c.word[1]), "=r"(c.word[2]), "=r"(c.word[3])
                 : "r"(address)
                 : "memory");
    return c;
}
__device__ __forceinline__ void store_shared(u32 address, const Chunk &c) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(c.word[0]), "r"(c.word[1]), "r"(c.word[2]),
                 "r"(c.word[3])
                 : "memory");
}

// Rows of `COLUMNS` elements in shared memory. The chunks of a row are permuted by the row's number, so that eight rows of
// one column of chunks (what ldmatrix reads) and the chunks of one row lie in different banks; in f32 also the same column of four
// neighbouring rows, which is what a second operand [k][n] is read as.
template <class E, int COLUMNS>
struct Tile {
    static constexpr int CHUNKS = COLUMNS * int(sizeof(E)) / 16;
    static_assert(COLUMNS * sizeof(E) % 16 == 0 && (CHUNKS & (CHUNKS - 1)) == 0 || CHUNKS % 8 == 0,
                  "a row is 1, 2, 4 or a multiple of 8 chunks");
    u32 base;

    static constexpr int bytes(int rows) { return rows * CHUNKS * 16; }

    __device__ __forceinline__ u32 address(int row, int chunk) const {
        const int eighth = sizeof(E) == 4 ? (row & 3) << 1 | (row >> 2 & 1) : row & 7;
        const int turn = CHUNKS >= 8 ? eighth : CHUNKS == 4 ? (row >> 1) & 3 : CHUNKS == 2 ? (row >> 2) & 1 : 0;
        return base + u32(row * CHUNKS + (chunk ^ turn)) * 16;
    }
    // Address of one element.
    __device__ __forceinline__ u32 element(int row, int column) const {
        return address(row, column / CHUNK<E>) + u32(column % CHUNK<E>) * u32(sizeof(E));
    }
    __device__ __forceinline__ void store(int row, int column, E value) const {
        if constexpr (sizeof(E) == 2) {
            asm volatile("st.shared.u16 [%0], %1;" ::"r"(element(row, column)), "h"(value.bits) : "memory");
        } else {
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(element(row, column)), "f"(value) : "memory");
        }
    }
    // Two neighbours at an even column, rounded.
    __device__ __forceinline__ void store_pair(int row, int column, float low, float high) const {
        if constexpr (sizeof(E) == 2) {
            asm volatile("st.shared.u32 [%0], %1;" ::"r"(element(row, column)), "r"(pack<E>(low, high)) : "memory");
        } else {
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(element(row, column)), "f"(low), "f"(high) : "memory");
        }
    }
};

}  // namespace segface
