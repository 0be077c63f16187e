// Activations (`segface_kernels::Act`), on f32. None branches: the lanes of a warp see numbers of every size.
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
    // At infinity the product is of infinity and nothing.
    return t > 16.0f ? fmaxf(x, 0.0f) : fmaf(-t, exp2_fast(p), fmaxf(x, 0.0f));
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

}  // namespace segface
