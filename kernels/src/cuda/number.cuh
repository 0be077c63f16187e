// Element types and precisions.
//
// No header of the CUDA toolkit is included anywhere in these kernels: a machine with a driver and NVRTC alone compiles
// them, and the conversions below are the instructions themselves.
#pragma once

namespace segface {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

// What lies in memory. f32 is `float`.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

// How a product is computed. `Element` is what activations and weights are in memory; sums are f32 in all of them.
struct Half {
    using Element = f16;
};
struct Bfloat {
    using Element = bf16;
};
// f32 in memory, rounded to tf32 (10 bits of fraction) on the way into a tensor core.
struct Tf32 {
    using Element = float;
};
// f32 throughout, by fused multiply-adds.
struct Single {
    using Element = float;
};

__device__ __forceinline__ float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__device__ __forceinline__ float widen(float x) { return x; }

template <class E>
__device__ __forceinline__ E narrow(float x);
template <>
__device__ __forceinline__ f16 narrow<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
__device__ __forceinline__ bf16 narrow<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}

// Two numbers in a register, the first in the low half.
template <class E>
__device__ __forceinline__ u32 pack(float low, float high);
template <>
__device__ __forceinline__ u32 pack<f16>(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <>
__device__ __forceinline__ u32 pack<bf16>(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// 16 bytes: what a thread moves at a time.
struct alignas(16) Chunk {
    u32 word[4];
};

// Elements in a chunk.
template <class E>
constexpr int CHUNK = 16 / int(sizeof(E));

__device__ __forceinline__ Chunk zero_chunk() { return Chunk{{0, 0, 0, 0}}; }

__device__ __forceinline__ void unpack(const Chunk &chunk, float (&values)[8], f16) {
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = widen(f16{u16(chunk.word[i / 2] >> 16 * (i % 2))});
}
__device__ __forceinline__ void unpack(const Chunk &chunk, float (&values)[8], bf16) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        values[2 * i] = __uint_as_float(chunk.word[i] << 16);
        values[2 * i + 1] = __uint_as_float(chunk.word[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void unpack(const Chunk &chunk, float (&values)[4], float) {
#pragma unroll
    for (int i = 0; i < 4; i++) values[i] = __uint_as_float(chunk.word[i]);
}

// The numbers of a chunk.
template <class E>
__device__ __forceinline__ void unpack(const Chunk &chunk, float (&values)[CHUNK<E>]) {
    unpack(chunk, values, E{});
}

// A chunk of rounded numbers.
template <class E>
__device__ __forceinline__ Chunk pack(const float (&values)[CHUNK<E>]) {
    Chunk chunk;
    if constexpr (sizeof(E) == 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) chunk.word[i] = pack<E>(values[2 * i], values[2 * i + 1]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) chunk.word[i] = __float_as_uint(values[i]);
    }
    return chunk;
}

// Rounds to tf32, ties away from zero: what a tensor core takes without truncating.
__device__ __forceinline__ u32 round_tf32(u32 x) {
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(__uint_as_float(x)));
    return y;
}

constexpr int ceil_divide(int a, int b) { return (a + b - 1) / b; }
constexpr int round_up(int a, int b) { return ceil_divide(a, b) * b; }

}  // namespace segface
