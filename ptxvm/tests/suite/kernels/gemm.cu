// C = A B in f32 without tensor cores, all row-major: A is m x k, B is k x n.

extern "C" __global__ void gemm_naive(const float *a, const float *b, float *c, int m, int n, int k) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    if (row < m && column < n) {
        float sum = 0.0f;
        for (int i = 0; i < k; ++i) {
            sum = fmaf(a[row * k + i], b[i * n + column], sum);
        }
        c[row * n + column] = sum;
    }
}

#define T 16
extern "C" __global__ void gemm_tiled(const float *a, const float *b, float *c, int m, int n, int k) {
    __shared__ float as[T][T];
    __shared__ float bs[T][T];
    int tx = threadIdx.x;
    int ty = threadIdx.y;
    int column = blockIdx.x * T + tx;
    int row = blockIdx.y * T + ty;
    float sum = 0.0f;
    for (int first = 0; first < k; first += T) {
        as[ty][tx] = row < m && first + tx < k ? a[row * k + first + tx] : 0.0f;
        bs[ty][tx] = first + ty < k && column < n ? b[(first + ty) * n + column] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < T; ++i) {
            sum = fmaf(as[ty][i], bs[i][tx], sum);
        }
        __syncthreads();
    }
    if (row < m && column < n) {
        c[row * n + column] = sum;
    }
}

// 64 x 64 tile by 16 x 16 threads, 4 x 4 sums in registers, A kept transposed, two buffers and one barrier a step.
#define BM 64
#define BN 64
#define BK 8
extern "C" __global__ void __launch_bounds__(256) gemm_register_blocked(const float *__restrict__ a, const float *__restrict__ b,
                                                                        float *__restrict__ c, int m, int n, int k) {
    __shared__ __align__(16) float as[2][BK][BM + 4];
    __shared__ __align__(16) float bs[2][BK][BN];
    int thread = threadIdx.x;
    int tx = thread % 16;
    int ty = thread / 16;
    int row0 = blockIdx.y * BM;
    int column0 = blockIdx.x * BN;
    float sums[4][4] = {};
    auto load = [&](int buffer, int first) {
#pragma unroll
        for (int i = thread; i < BM * BK; i += 256) {
            int row = i / BK;
            int kk = i % BK;
            as[buffer][kk][row] = row0 + row < m && first + kk < k ? a[(row0 + row) * k + first + kk] : 0.0f;
        }
#pragma unroll
        for (int i = thread; i < BK * BN; i += 256) {
            int kk = i / BN;
            int column = i % BN;
            bs[buffer][kk][column] = first + kk < k && column0 + column < n ? b[(first + kk) * n + column0 + column] : 0.0f;
        }
    };
    load(0, 0);
    __syncthreads();
    int buffer = 0;
    for (int first = 0; first < k; first += BK) {
        if (first + BK < k) {
            load(buffer ^ 1, first + BK);
        }
#pragma unroll
        for (int kk = 0; kk < BK; ++kk) {
            float4 av = *reinterpret_cast<const float4 *>(&as[buffer][kk][ty * 4]);
            float4 bv = *reinterpret_cast<const float4 *>(&bs[buffer][kk][tx * 4]);
            float ar[4] = {av.x, av.y, av.z, av.w};
            float br[4] = {bv.x, bv.y, bv.z, bv.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    sums[i][j] = fmaf(ar[i], br[j], sums[i][j]);
                }
            }
        }
        __syncthreads();
        buffer ^= 1;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int row = row0 + ty * 4 + i;
            int column = column0 + tx * 4 + j;
            if (row < m && column < n) {
                c[row * n + column] = sums[i][j];
            }
        }
    }
}
