// Elementwise kernels: vector add, saxpy with 16-byte accesses, GELU, half2 arithmetic, doubles.
#include <cuda_fp16.h>

extern "C" __global__ void vector_add(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        c[i] = a[i] + b[i];
    }
}

// y = a x + y: four elements a thread and step, the tail one by one.
extern "C" __global__ void saxpy_vectorised(float a, const float *__restrict__ x, float *__restrict__ y, int n) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    int stride = gridDim.x * blockDim.x;
    const float4 *x4 = reinterpret_cast<const float4 *>(x);
    float4 *y4 = reinterpret_cast<float4 *>(y);
    for (int i = thread; i < n / 4; i += stride) {
        float4 u = x4[i];
        float4 v = y4[i];
        v.x = fmaf(a, u.x, v.x);
        v.y = fmaf(a, u.y, v.y);
        v.z = fmaf(a, u.z, v.z);
        v.w = fmaf(a, u.w, v.w);
        y4[i] = v;
    }
    for (int i = n / 4 * 4 + thread; i < n; i += stride) {
        y[i] = fmaf(a, x[i], y[i]);
    }
}

extern "C" __global__ void gelu_erf(const float *__restrict__ in, float *__restrict__ out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float x = in[i];
        out[i] = 0.5f * x * (1.0f + erff(x * 0.70710678118654752440f));
    }
}

extern "C" __global__ void gelu_tanh(const float *__restrict__ in, float *__restrict__ out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        float x = in[i];
        float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        out[i] = 0.5f * x * (1.0f + tanhf(inner));
    }
}

// Two halves a lane: out = relu(a b + c) in half precision, n even.
extern "C" __global__ void half2_fma_relu(const __half2 *a, const __half2 *b, const __half2 *c, __half2 *out, int pairs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs) {
        __half2 zero = __float2half2_rn(0.0f);
        out[i] = __hmax2(__hfma2(a[i], b[i], c[i]), zero);
    }
}

extern "C" __global__ void hypotenuse_double(const double *x, const double *y, double *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = sqrt(fma(x[i], x[i], y[i] * y[i])) + 1.0 / (1.0 + exp(-x[i]));
    }
}
