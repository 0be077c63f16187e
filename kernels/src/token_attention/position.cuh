// The image tokens' encoding from its tables: rows of 128 sines and 128 cosines of an angle, one per column of the map, then one
// per row. A token's encoding is the sines and cosines of the sum of its two angles. Two additions and four products a pair
// are cheaper than [P, 256] more numbers from memory in every pass.
#pragma once
#include "cuda/memory.cuh"

namespace segface::token_attention {

// Adds the encoding to channels i .. i + CHUNK (`low`) and 128 + i .. (`high`) of the token in the map's column `x_row` and row
// `y_row` (numbers of rows of the tables).
template <class E>
__device__ __forceinline__ void add_position(Chunk &low, Chunk &high, const float *pe, int x_row, int y_row, int i) {
    const float *a = pe + x_row * 256 + i, *b = pe + y_row * 256 + i;
    float first[CHUNK<E>], second[CHUNK<E>];
    unpack<E>(low, first);
    unpack<E>(high, second);
#pragma unroll
    for (int v = 0; v < CHUNK<E>; v += 4) {
        const float4 sin_a = *reinterpret_cast<const float4 *>(a + v), cos_a = *reinterpret_cast<const float4 *>(a + 128 + v);
        const float4 sin_b = *reinterpret_cast<const float4 *>(b + v), cos_b = *reinterpret_cast<const float4 *>(b + 128 + v);
        const float sa[4] = {sin_a.x, sin_a.y, sin_a.z, sin_a.w}, ca[4] = {cos_a.x, cos_a.y, cos_a.z, cos_a.w};
        const float sb[4] = {sin_b.x, sin_b.y, sin_b.z, sin_b.w}, cb[4] = {cos_b.x, cos_b.y, cos_b.z, cos_b.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            first[v + j] += sa[j] * cb[j] + ca[j] * sb[j];
            second[v + j] += ca[j] * cb[j] - sa[j] * sb[j];
        }
    }
    low = pack<E>(first);
    high = pack<E>(second);
}

}  // namespace segface::token_attention
