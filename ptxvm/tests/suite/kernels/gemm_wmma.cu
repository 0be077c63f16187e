// C = A B through nvcuda::wmma: f16 inputs, f32 sums. One warp computes a 16 x 16 tile; sizes are multiples of 16.
#include <mma.h>

using namespace nvcuda;

extern "C" __global__ void gemm_wmma_f16(const __half *a, const __half *b, float *c, int m, int n, int k) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int tiles_n = n / 16;
    int row = warp / tiles_n * 16;
    int column = warp % tiles_n * 16;
    if (row >= m) {
        return;
    }
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::fill_fragment(sums, 0.0f);
    for (int i = 0; i < k; i += 16) {
        wmma::load_matrix_sync(fa, a + row * k + i, k);
        wmma::load_matrix_sync(fb, b + i * n + column, n);
        wmma::mma_sync(sums, fa, fb, sums);
    }
    wmma::store_matrix_sync(c + row * n + column, sums, n, wmma::mem_row_major);
}

// B column-major and the sums in half precision, staged through shared memory.
extern "C" __global__ void gemm_wmma_f16_accumulate_f16(const __half *a, const __half *b_columns, __half *c, int m, int n, int k) {
    __shared__ __align__(32) __half stage[8][16 * 16];
    int warp_in_block = threadIdx.x / 32;
    int warp = blockIdx.x * (blockDim.x / 32) + warp_in_block;
    int tiles_n = n / 16;
    int row = warp / tiles_n * 16;
    int column = warp % tiles_n * 16;
    if (row >= m) {
        return;
    }
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, __half> sums;
    wmma::fill_fragment(sums, __float2half(0.0f));
    for (int i = 0; i < k; i += 16) {
        wmma::load_matrix_sync(fa, a + row * k + i, k);
        wmma::load_matrix_sync(fb, b_columns + column * k + i, k);
        wmma::mma_sync(sums, fa, fb, sums);
    }
    for (int i = 0; i < sums.num_elements; ++i) {
        sums.x[i] = __hmax(sums.x[i], __float2half(0.0f));
    }
    __half *own = stage[warp_in_block];
    wmma::store_matrix_sync(own, sums, 16, wmma::mem_row_major);
    __syncwarp();
    for (int i = threadIdx.x % 32; i < 256; i += 32) {
        c[(row + i / 16) * n + column + i % 16] = own[i];
    }
}
