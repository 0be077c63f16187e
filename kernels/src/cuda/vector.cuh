// WIDTH neighbours of a row as floats: 16 bytes where rows allow, else one number.
#pragma once
#include "cuda/memory.cuh"

namespace segface {

template <class E, int WIDTH>
__device__ __forceinline__ void load_vector(float (&values)[WIDTH], const E *source) {
    if constexpr (WIDTH == 1) values[0] = widen(*source);
    else {
        static_assert(WIDTH == CHUNK<E>, "a chunk or one number");
        unpack<E>(load_chunk(source), values);
    }
}
template <class E, int WIDTH>
__device__ __forceinline__ void store_vector(E *target, const float (&values)[WIDTH]) {
    if constexpr (WIDTH == 1) *target = narrow<E>(values[0]);
    else store_chunk(target, pack<E>(values));
}
// Factors per channel.
template <int WIDTH>
__device__ __forceinline__ void load_factors(float (&values)[WIDTH], const float *source) {
    if constexpr (WIDTH == 1) values[0] = *source;
    else load_floats(values, source);
}

}  // namespace segface
