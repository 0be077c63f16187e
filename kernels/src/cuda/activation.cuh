// Activations, on f32. Numbered as in `segface_kernels::cuda::activation_number`. None branches: the lanes of a warp see
// numbers of every size.
#pragma once
#include "cuda/number.cuh"

namespace segface {

enum class Act { Identity, Relu, Gelu, Silu, HardSwish, HardSigmoid, Sigmoid };

// 2^x, 2 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x, 1 ulp. A division has a slow path for numbers that do not occur here.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float hard_sigmoid(float x) { return fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f); }
__device__ __forceinline__ float sigmoid(float x) { return reciprocal(1.0f + expf(-x)); }

// x·Φ(x) = max(x, 0) − |x|·Φ(−|x|), and Φ(−t) is 2 to the power of a polynomial in t. Fitted on [0, 6] so that t·Φ(−t) is right to
// 3e-8; beyond, the polynomial falls on. Closer to the exact function than 0.5·x·(1 + erff(x / √2)), which loses the left tail
// to the sum with 1.
__device__ __forceinline__ float gelu(float x) {
    const float t = fabsf(x);
    float p = -9.672733086e-07f;
    p = fmaf(p, t, 1.613164750e-05f);
    p = fmaf(p, t, -7.126241690e-05f);
    p = fmaf(p, t, -4.265941679e-04f);
    p = fmaf(p, t, 7.460311521e-03f);
    p = fmaf(p, t, -5.278662592e-02f);
    p = fmaf(p, t, -4.591057599e-01f);
    p = fmaf(p, t, -1.151118159e+00f);
    p = fmaf(p, t, -1.0f);
    return fmaf(-t, exp2_fast(p), fmaxf(x, 0.0f));
}

template <Act ACT>
__device__ __forceinline__ float activate(float x) {
    if constexpr (ACT == Act::Relu) return fmaxf(x, 0.0f);
    else if constexpr (ACT == Act::Gelu) return gelu(x);
    else if constexpr (ACT == Act::Silu) return x * sigmoid(x);
    else if constexpr (ACT == Act::HardSwish) return x * hard_sigmoid(x);
    else if constexpr (ACT == Act::HardSigmoid) return hard_sigmoid(x);
    else if constexpr (ACT == Act::Sigmoid) return sigmoid(x);
    else return x;
}

// GELU where the result is rounded to 11 bits or fewer: erf within 1.5e-7 (Abramowitz & Stegun 7.1.26), a third of the instructions of
// erff. In `Single` the function itself.
template <class P>
__device__ __forceinline__ float gelu(float x) {
    const float z = fabsf(x) * 0.70710678118654752f;
    float t, e;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(fmaf(z, 0.3275911f, 1.0f)));
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(z * z * -1.4426950408889634f));
    float tail = fmaf(t, 1.061405429f, -1.453152027f);
    tail = fmaf(tail, t, 1.421413741f);
    tail = fmaf(tail, t, -0.284496736f);
    tail = fmaf(tail, t, 0.254829592f);
    // (1 − erf|z|)/2: the share of x that a negative x keeps and a positive one loses.
    tail *= 0.5f * t * e;
    return x > 0.0f ? fmaf(-x, tail, x) : x * tail;
}
template <>
__device__ __forceinline__ float gelu<Single>(float x) {
    return activate<Act::Gelu>(x);
}

}  // namespace segface
