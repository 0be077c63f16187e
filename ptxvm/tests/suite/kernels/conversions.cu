// fp8 conversions and packed integer dot products; the fp8 intrinsics run in software below compute_89.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

extern "C" __global__ void to_fp8_and_back(const float *in, unsigned char *e4m3, unsigned char *e5m2, float *from_e4m3, float *from_e5m2,
                                           int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        __nv_fp8_storage_t a = __nv_cvt_float_to_fp8(in[i], __NV_SATFINITE, __NV_E4M3);
        __nv_fp8_storage_t b = __nv_cvt_float_to_fp8(in[i], __NV_SATFINITE, __NV_E5M2);
        e4m3[i] = a;
        e5m2[i] = b;
        from_e4m3[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(a, __NV_E4M3)));
        from_e5m2[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(b, __NV_E5M2)));
    }
}

// Quantise to s8 with saturation, then dot products of rows of 4 x words bytes.
extern "C" __global__ void quantise_s8(const float *in, signed char *out, float scale, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        int q = __float2int_rn(in[i] * scale);
        out[i] = max(-127, min(127, q));
    }
}

extern "C" __global__ void dot_rows_dp4a(const int *a, const int *b, int *out, int words, int rows) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < rows) {
        int sum = 0;
        for (int i = 0; i < words; ++i) {
            sum = __dp4a(a[row * words + i], b[row * words + i], sum);
        }
        out[row] = sum;
    }
}
