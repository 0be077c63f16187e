// One small kernel for each shape of PTX that the parser must read: see README.md beside this file.
#include <cuda_fp16.h>

extern "C" __constant__ float weights[8] = {1.0f, 0.5f, 0.25f, -1.0f, 1e-30f, 3.0f, 0.0f, 2.0f};
__constant__ int table[2][3] = {{1, 2}, {3}};
extern "C" __device__ unsigned counter = 7;
__device__ unsigned *counter_address = &counter;
__device__ const char *names[2] = {"even", "odd"};
extern "C" __managed__ int shared_with_host = 3;

struct Shape {
    int height, width;
    const float *data;
    long strides[4];
};

typedef float (*Function)(float);
__device__ __noinline__ float twice(float x) { return x * 2.0f + weights[3]; }
__device__ __noinline__ float half_of(float x) { return x * 0.5f; }
__device__ Function functions[2] = {twice, half_of};

__device__ __noinline__ int factorial(int n) { return n <= 1 ? 1 : n * factorial(n - 1); }

struct Pair {
    double first;
    int second;
};
__device__ __noinline__ Pair make_pair(Pair p, int n) {
    p.second += n;
    return p;
}

extern "C" __global__ void __launch_bounds__(128, 2) structs(__grid_constant__ const Shape shape, float *out, int which) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= shape.width) return;
    out[i] = functions[which & 1](shape.data[i * shape.strides[which & 3]]) + table[which & 1][i % 3];
}

extern "C" __global__ void calls(int *out, int n, Pair *pairs) {
    out[threadIdx.x] = factorial(n + threadIdx.x);
    pairs[threadIdx.x] = make_pair(pairs[threadIdx.x], n);
    if (threadIdx.x == 0) printf("%d %s\n", n, names[n & 1]);
    int local[16];
#pragma unroll 1
    for (int k = 0; k < 16; k++) local[(k * n) & 15] = k;
    out[threadIdx.x + 32] = local[n & 15];
    atomicAdd(counter_address, 1u);
    atomicAdd(&shared_with_host, 2);
}

extern "C" __global__ void shuffles(const float4 *in, float *out, __half2 *halves) {
    __shared__ float sums[32];
    extern __shared__ float dynamic[];
    float4 v = in[threadIdx.x];
    float s = v.x + v.y + v.z + v.w;
#pragma unroll 1
    for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(0xFFFFFFFF, s, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = s;
    __syncthreads();
    dynamic[threadIdx.x] = sums[threadIdx.x / 32];
    halves[threadIdx.x] = __hfma2(halves[threadIdx.x], halves[threadIdx.x], __float2half2_rn(s));
    out[threadIdx.x] = dynamic[threadIdx.x ^ 1] / s + (float)sqrt((double)s);
}

extern "C" __global__ void by_hand(unsigned *out, const void *in) {
    unsigned a, b;
    // The same label in two scopes, registers of a scope, a pair with a sink, immediates within a vector.
    asm volatile("{\n\t.reg .pred p, q;\n\t.reg .b16 lo, hi;\n\tmov.b32 {lo, hi}, %1;\n\tsetp.eq.u16 p|q, lo, hi;\n\t"
                 "@!p bra DONE;\n\tmov.b32 %0, {0x3C00, hi};\n\tDONE:\n\tselp.b32 %0, %0, -1, q;\n\t}"
                 : "=r"(a) : "r"(out[0]));
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %1, 0;\n\t@p bra.uni DONE;\n\tmov.u32 %0, 0b101U;\n\tDONE:\n\t}"
                 : "=r"(b) : "r"(out[1]));
    unsigned where = (unsigned)__cvta_generic_to_shared(out);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0+16], [%1+-16], 16, %2;" ::"r"(where), "l"(in), "r"(a));
    asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;");
    out[0] = a + b;
}
