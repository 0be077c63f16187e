// C = A B with mma.sync by inline PTX; requires compute_80.
#include <cuda_bf16.h>

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 64 x 64 tile, four warps of 32 x 32, padded shared memory, plain loads. n and k are multiples of 8.
extern "C" __global__ void __launch_bounds__(128) gemm_mma_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c, int m, int n,
                                                                int k) {
    constexpr int PAD = 8;
    __shared__ __align__(16) __nv_bfloat16 as[64][32 + PAD];
    __shared__ __align__(16) __nv_bfloat16 bs[32][64 + PAD];
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    int warp_row = warp / 2 * 32;
    int warp_column = warp % 2 * 32;
    int row0 = blockIdx.y * 64;
    int column0 = blockIdx.x * 64;
    float sums[2][4][4] = {};
    const uint4 zero = make_uint4(0, 0, 0, 0);
    for (int first = 0; first < k; first += 32) {
        for (int i = threadIdx.x; i < 64 * 4; i += 128) {
            int row = i / 4;
            int chunk = i % 4 * 8;
            bool inside = row0 + row < m && first + chunk < k;
            *reinterpret_cast<uint4 *>(&as[row][chunk]) =
                inside ? *reinterpret_cast<const uint4 *>(a + (size_t)(row0 + row) * k + first + chunk) : zero;
        }
        for (int i = threadIdx.x; i < 32 * 8; i += 128) {
            int row = i / 8;
            int chunk = i % 8 * 8;
            bool inside = first + row < k && column0 + chunk < n;
            *reinterpret_cast<uint4 *>(&bs[row][chunk]) =
                inside ? *reinterpret_cast<const uint4 *>(b + (size_t)(first + row) * n + column0 + chunk) : zero;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 32; kk += 16) {
            unsigned fa[2][4];
            unsigned fb[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                load_matrices(fa[i], shared_address(&as[warp_row + i * 16 + lane % 16][kk + lane / 16 * 8]));
                load_matrices_transposed(fb[i], shared_address(&bs[kk + lane % 16][warp_column + i * 16 + lane / 16 * 8]));
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    multiply_bf16(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int row = row0 + warp_row + i * 16 + lane / 4;
            int column = column0 + warp_column + j * 8 + lane % 4 * 2;
            if (column < n) {
                if (row < m) {
                    *reinterpret_cast<float2 *>(c + (size_t)row * n + column) = make_float2(sums[i][j][0], sums[i][j][1]);
                }
                if (row + 8 < m) {
                    *reinterpret_cast<float2 *>(c + (size_t)(row + 8) * n + column) = make_float2(sums[i][j][2], sums[i][j][3]);
                }
            }
        }
    }
}

__device__ __forceinline__ void copy_async_16(unsigned to, const void *from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// 128 x 128 tile, eight warps of 64 x 32, four stages of cp.async, XOR-swizzled shared memory. n and k multiples of 8.
extern "C" __global__ void __launch_bounds__(256) gemm_mma_bf16_pipelined(const __nv_bfloat16 *__restrict__ a,
                                                                          const __nv_bfloat16 *__restrict__ b, float *__restrict__ c,
                                                                          int m, int n, int k) {
    constexpr int STAGES = 4;
    constexpr int A_BYTES = 128 * 64;
    constexpr int B_BYTES = 32 * 256;
    extern __shared__ __align__(128) unsigned char buffers[];
    unsigned base = shared_address(buffers);
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    int warp_row = warp / 4 * 64;
    int warp_column = warp % 4 * 32;
    int row0 = blockIdx.y * 128;
    int column0 = blockIdx.x * 128;
    float sums[4][4][4] = {};
    int steps = (k + 31) / 32;

    auto fetch = [&](int step) {
        unsigned as = base + step % STAGES * (A_BYTES + B_BYTES);
        unsigned bs = as + A_BYTES;
        int first = step * 32;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int at = threadIdx.x + i * 256;
            int row = at / 4;
            int chunk = at % 4;
            bool inside = row0 + row < m && first + chunk * 8 < k;
            const void *from = inside ? a + (size_t)(row0 + row) * k + first + chunk * 8 : a;
            copy_async_16(as + row * 64 + ((chunk ^ (row >> 1 & 3)) << 4), from, inside);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int at = threadIdx.x + i * 256;
            int row = at / 16;
            int chunk = at % 16;
            bool inside = first + row < k && column0 + chunk * 8 < n;
            const void *from = inside ? b + (size_t)(first + row) * n + column0 + chunk * 8 : b;
            copy_async_16(bs + row * 256 + ((chunk ^ (row & 7)) << 4), from, inside);
        }
    };

    for (int step = 0; step < STAGES - 1; ++step) {
        if (step < steps) {
            fetch(step);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (int step = 0; step < steps; ++step) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (step + STAGES - 1 < steps) {
            fetch(step + STAGES - 1);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        unsigned as = base + step % STAGES * (A_BYTES + B_BYTES);
        unsigned bs = as + A_BYTES;
#pragma unroll
        for (int kk = 0; kk < 2; ++kk) {
            unsigned fa[4][4];
            unsigned fb[2][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int row = warp_row + i * 16 + lane % 16;
                int chunk = kk * 2 + lane / 16;
                load_matrices(fa[i], as + row * 64 + ((chunk ^ (row >> 1 & 3)) << 4));
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                int row = kk * 16 + lane % 16;
                int chunk = (warp_column + j * 16) / 8 + lane / 16;
                load_matrices_transposed(fb[j], bs + row * 256 + ((chunk ^ (row & 7)) << 4));
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    multiply_bf16(sums[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int row = row0 + warp_row + i * 16 + lane / 4;
            int column = column0 + warp_column + j * 8 + lane % 4 * 2;
            if (column < n) {
                if (row < m) {
                    *reinterpret_cast<float2 *>(c + (size_t)row * n + column) = make_float2(sums[i][j][0], sums[i][j][1]);
                }
                if (row + 8 < m) {
                    *reinterpret_cast<float2 *>(c + (size_t)(row + 8) * n + column) = make_float2(sums[i][j][2], sums[i][j][3]);
                }
            }
        }
    }
}

__device__ __forceinline__ unsigned to_tf32(float value) {
    unsigned result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
    return result;
}

// One warp computes 16 x 8; m, n, k are multiples of 16, 8, 8.
extern "C" __global__ void gemm_mma_tf32(const float *a, const float *b, float *c, int m, int n, int k) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    int row = warp / (n / 8) * 16 + lane / 4;
    int column0 = warp % (n / 8) * 8;
    if (warp >= m / 16 * (n / 8)) {
        return;
    }
    float d[4] = {};
    for (int i = 0; i < k; i += 8) {
        int t = i + lane % 4;
        unsigned a0 = to_tf32(a[row * k + t]);
        unsigned a1 = to_tf32(a[(row + 8) * k + t]);
        unsigned a2 = to_tf32(a[row * k + t + 4]);
        unsigned a3 = to_tf32(a[(row + 8) * k + t + 4]);
        unsigned b0 = to_tf32(b[t * n + column0 + lane / 4]);
        unsigned b1 = to_tf32(b[(t + 4) * n + column0 + lane / 4]);
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    int column = column0 + lane % 4 * 2;
    c[row * n + column] = d[0];
    c[row * n + column + 1] = d[1];
    c[(row + 8) * n + column] = d[2];
    c[(row + 8) * n + column + 1] = d[3];
}

// s8 x s8 + s32; B is column-major (n x k). m, n, k are multiples of 16, 8, 32.
extern "C" __global__ void gemm_mma_s8(const signed char *a, const signed char *b_columns, int *c, int m, int n, int k) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    int row = warp / (n / 8) * 16 + lane / 4;
    int column0 = warp % (n / 8) * 8;
    if (warp >= m / 16 * (n / 8)) {
        return;
    }
    int d[4] = {};
    auto word = [](const signed char *p) { return *reinterpret_cast<const unsigned *>(p); };
    for (int i = 0; i < k; i += 32) {
        int t = i + lane % 4 * 4;
        unsigned a0 = word(a + row * k + t);
        unsigned a1 = word(a + (row + 8) * k + t);
        unsigned a2 = word(a + row * k + t + 16);
        unsigned a3 = word(a + (row + 8) * k + t + 16);
        unsigned b0 = word(b_columns + (column0 + lane / 4) * k + t);
        unsigned b1 = word(b_columns + (column0 + lane / 4) * k + t + 16);
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                     "{%0, %1, %2, %3};"
                     : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
    int column = column0 + lane % 4 * 2;
    c[row * n + column] = d[0];
    c[row * n + column + 1] = d[1];
    c[(row + 8) * n + column] = d[2];
    c[(row + 8) * n + column + 1] = d[3];
}

// f64: one warp computes 8 x 8; m, n, k are multiples of 8, 8, 4.
extern "C" __global__ void gemm_mma_f64(const double *a, const double *b, double *c, int m, int n, int k) {
    int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    int row = warp / (n / 8) * 8 + lane / 4;
    int column0 = warp % (n / 8) * 8;
    if (warp >= m / 8 * (n / 8)) {
        return;
    }
    double d0 = 0.0;
    double d1 = 0.0;
    for (int i = 0; i < k; i += 4) {
        double av = a[row * k + i + lane % 4];
        double bv = b[(i + lane % 4) * n + column0 + lane / 4];
        asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                     : "+d"(d0), "+d"(d1)
                     : "d"(av), "d"(bv));
    }
    c[row * n + column0 + lane % 4 * 2] = d0;
    c[row * n + column0 + lane % 4 * 2 + 1] = d1;
}
