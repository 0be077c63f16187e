// The atom of products without tensor cores, for the middle rung of the ladders: everything that is written for a precision `P` runs with
// `Plain<P>` too, with the same tiles, copies and fragments, but a product of fragments is made of fused multiply-adds.
//
// The terms of a lane's four sums lie with the lanes of its quad (rows) and with eight others (columns): they are handed over by shuffles,
// 32 of them for 64 multiply-adds of 16-bit numbers, 32 of tf32.
#pragma once
#include "cuda/mma.cuh"

namespace segface {

template <class P>
struct Plain {
    using Element = typename P::Element;
};

template <class P>
struct Mma<Plain<P>> : Mma<P> {
    using A = typename Mma<P>::A;
    using B = typename Mma<P>::B;

    static __device__ __forceinline__ void multiply(float (&c)[4], const A &a, const B &b) {
        const int lane = lane_id(), quad = lane & ~3, columns = (lane & 3) * 8;
        // Not unrolled: kernels have up to a hundred of these, and what is gathered ahead would spill.
#pragma unroll 1
        for (int q = 0; q < 4; q++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float row[2][TERMS], column[2][TERMS];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    terms(row[i], __shfl_sync(~0u, a.r[2 * half + i], quad + q));
                    terms(column[i], __shfl_sync(~0u, b.r[half], columns + 4 * i + q));
                }
#pragma unroll
                for (int term = 0; term < TERMS; term++)
#pragma unroll
                    for (int i = 0; i < 4; i++) c[i] = fmaf(row[i / 2][term], column[i % 2][term], c[i]);
            }
    }

private:
    using E = typename P::Element;
    // Numbers of a register.
    static constexpr int TERMS = 4 / int(sizeof(E));

    static __device__ __forceinline__ void terms(float (&values)[TERMS], u32 word) {
        if constexpr (TERMS == 2) {
            values[0] = widen(E{u16(word)});
            values[1] = widen(E{u16(word >> 16)});
        } else {
            values[0] = __uint_as_float(word);
        }
    }
};

}  // namespace segface
