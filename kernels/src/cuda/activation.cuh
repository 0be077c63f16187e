// Activations, on f32. Numbered as in `segface_kernels::cuda::activation_number`.
#pragma once
#include "cuda/number.cuh"

namespace segface {

enum class Act { Identity, Relu, Gelu, Silu, HardSwish, HardSigmoid, Sigmoid };

__device__ __forceinline__ float hard_sigmoid(float x) { return fminf(fmaxf(x + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <Act ACT>
__device__ __forceinline__ float activate(float x) {
    if constexpr (ACT == Act::Relu) return fmaxf(x, 0.0f);
    else if constexpr (ACT == Act::Gelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    else if constexpr (ACT == Act::Silu) return x * sigmoid(x);
    else if constexpr (ACT == Act::HardSwish) return x * hard_sigmoid(x);
    else if constexpr (ACT == Act::HardSigmoid) return hard_sigmoid(x);
    else if constexpr (ACT == Act::Sigmoid) return sigmoid(x);
    else return x;
}

}  // namespace segface
