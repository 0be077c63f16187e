// Softmax and layer norm over rows.
#include <cuda_bf16.h>
#include <math_constants.h>

__device__ __forceinline__ float warp_max(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) {
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    }
    return v;
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset >>= 1) {
        v += __shfl_xor_sync(0xffffffffu, v, offset);
    }
    return v;
}

// A warp a row.
extern "C" __global__ void softmax_warp(const float *in, float *out, int rows, int columns) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) {
        return;
    }
    const float *x = in + (size_t)row * columns;
    float largest = -CUDART_INF_F;
    for (int i = lane; i < columns; i += 32) {
        largest = fmaxf(largest, x[i]);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (int i = lane; i < columns; i += 32) {
        sum += __expf(x[i] - largest);
    }
    sum = warp_sum(sum);
    float scale = 1.0f / sum;
    for (int i = lane; i < columns; i += 32) {
        out[(size_t)row * columns + i] = __expf(x[i] - largest) * scale;
    }
}

// A block a row, the row kept in shared memory.
extern "C" __global__ void softmax_block(const float *in, float *out, int columns) {
    extern __shared__ float row[];
    __shared__ float warps[32];
    __shared__ float result;
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    const float *x = in + (size_t)blockIdx.x * columns;
    float largest = -CUDART_INF_F;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        row[i] = x[i];
        largest = fmaxf(largest, row[i]);
    }
    largest = warp_max(largest);
    if (lane == 0) {
        warps[warp] = largest;
    }
    __syncthreads();
    if (warp == 0) {
        float v = warp_max(lane < blockDim.x / 32 ? warps[lane] : -CUDART_INF_F);
        if (lane == 0) {
            result = v;
        }
    }
    __syncthreads();
    largest = result;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float e = expf(row[i] - largest);
        row[i] = e;
        sum += e;
    }
    sum = warp_sum(sum);
    __syncthreads();
    if (lane == 0) {
        warps[warp] = sum;
    }
    __syncthreads();
    if (warp == 0) {
        float v = warp_sum(lane < blockDim.x / 32 ? warps[lane] : 0.0f);
        if (lane == 0) {
            result = v;
        }
    }
    __syncthreads();
    float scale = __fdividef(1.0f, result);
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        out[(size_t)blockIdx.x * columns + i] = row[i] * scale;
    }
}

struct Online {
    float largest;
    float sum;
};

__device__ __forceinline__ Online merge(Online a, Online b) {
    bool a_larger = a.largest > b.largest;
    Online big = a_larger ? a : b;
    Online small = a_larger ? b : a;
    big.sum += small.sum * (small.largest == -CUDART_INF_F ? 0.0f : expf(small.largest - big.largest));
    return big;
}

// One pass over the row for largest value and sum together.
extern "C" __global__ void softmax_online(const float *in, float *out, int columns) {
    __shared__ Online warps[8];
    const float *x = in + (size_t)blockIdx.x * columns;
    Online own = {-CUDART_INF_F, 0.0f};
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        own = merge(own, Online{x[i], 1.0f});
    }
    for (int offset = 16; offset > 0; offset >>= 1) {
        Online other;
        other.largest = __shfl_xor_sync(0xffffffffu, own.largest, offset);
        other.sum = __shfl_xor_sync(0xffffffffu, own.sum, offset);
        own = merge(own, other);
    }
    if (threadIdx.x % 32 == 0) {
        warps[threadIdx.x / 32] = own;
    }
    __syncthreads();
    own = warps[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) {
        own = merge(own, warps[warp]);
    }
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        out[(size_t)blockIdx.x * columns + i] = expf(x[i] - own.largest) / own.sum;
    }
}

// Two passes over the row in f32, a block a row.
extern "C" __global__ void layer_norm_f32(const float *in, const float *gamma, const float *beta, float *out, int columns, float eps) {
    __shared__ float warps[32];
    __shared__ float mean_shared;
    __shared__ float scale_shared;
    const float *x = in + (size_t)blockIdx.x * columns;
    int lane = threadIdx.x & 31;
    int warp = threadIdx.x >> 5;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        sum += x[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        warps[warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int w = 0; w < blockDim.x / 32; ++w) {
            total += warps[w];
        }
        mean_shared = total / columns;
    }
    __syncthreads();
    float mean = mean_shared;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        float d = x[i] - mean;
        squares = fmaf(d, d, squares);
    }
    squares = warp_sum(squares);
    if (lane == 0) {
        warps[warp] = squares;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        float total = 0.0f;
        for (int w = 0; w < blockDim.x / 32; ++w) {
            total += warps[w];
        }
        scale_shared = rsqrtf(total / columns + eps);
    }
    __syncthreads();
    float scale = scale_shared;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) {
        out[(size_t)blockIdx.x * columns + i] = fmaf((x[i] - mean) * scale, gamma[i], beta[i]);
    }
}

// A warp a row of 256 bf16 elements, eight a lane, all in registers.
extern "C" __global__ void layer_norm_bf16_256(const uint4 *in, const uint4 *gamma, const uint4 *beta, uint4 *out, int rows,
                                               float eps) {
    int row = (blockIdx.x * blockDim.x + threadIdx.x) >> 5;
    int lane = threadIdx.x & 31;
    if (row >= rows) {
        return;
    }
    uint4 packed = in[row * 32 + lane];
    const __nv_bfloat162 *pairs = reinterpret_cast<const __nv_bfloat162 *>(&packed);
    float v[8];
    float sum = 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float2 wide = __bfloat1622float2(pairs[i]);
        v[2 * i] = wide.x;
        v[2 * i + 1] = wide.y;
        sum += wide.x + wide.y;
    }
    float mean = warp_sum(sum) * (1.0f / 256.0f);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        v[i] -= mean;
        squares = fmaf(v[i], v[i], squares);
    }
    float scale = rsqrtf(warp_sum(squares) * (1.0f / 256.0f) + eps);
    uint4 g = gamma[lane];
    uint4 b = beta[lane];
    const __nv_bfloat162 *gs = reinterpret_cast<const __nv_bfloat162 *>(&g);
    const __nv_bfloat162 *bs = reinterpret_cast<const __nv_bfloat162 *>(&b);
    uint4 result;
    __nv_bfloat162 *results = reinterpret_cast<__nv_bfloat162 *>(&result);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float2 gw = __bfloat1622float2(gs[i]);
        float2 bw = __bfloat1622float2(bs[i]);
        results[i] = __floats2bfloat162_rn(fmaf(v[2 * i] * scale, gw.x, bw.x), fmaf(v[2 * i + 1] * scale, gw.y, bw.y));
    }
    out[row * 32 + lane] = result;
}
