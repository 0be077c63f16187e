// Arithmetic on pairs of bf16.
#include <cuda_bf16.h>

extern "C" __global__ void bfloat162_fma(const __nv_bfloat162 *a, const __nv_bfloat162 *b, const __nv_bfloat162 *c,
                                         __nv_bfloat162 *out, int pairs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs) {
        out[i] = __hfma2(a[i], b[i], c[i]);
    }
}

// Scale and bias with a conversion on either side: bf16 in, f32 inside, bf16 out, eight elements a thread.
extern "C" __global__ void scale_bias_bf16(const uint4 *in, uint4 *out, float scale, float bias, int groups) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= groups) {
        return;
    }
    uint4 packed = in[i];
    __nv_bfloat162 *pairs = reinterpret_cast<__nv_bfloat162 *>(&packed);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        float2 wide = __bfloat1622float2(pairs[j]);
        pairs[j] = __floats2bfloat162_rn(fmaf(wide.x, scale, bias), fmaf(wide.y, scale, bias));
    }
    out[i] = packed;
}
