// Flash attention forward, f16 with f32 sums, head dimension 64; requires compute_80.
// A block of four warps takes 64 queries of one head and walks the keys 64 at a time with an online softmax.
#include <cuda_fp16.h>
#include <math_constants.h>

#define D 64
#define QUERIES 64
#define KEYS 64

__device__ __forceinline__ unsigned swizzled(unsigned base, int row, int chunk) {
    return base + row * (D * 2) + ((chunk ^ (row & 7)) << 4);
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

__device__ __forceinline__ void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned pack(float low, float high) {
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<unsigned *>(&pair);
}

// Rows past the end are filled with zeros.
__device__ __forceinline__ void fetch_rows(unsigned to, const __half *from, int first, int length) {
    for (int i = threadIdx.x; i < 64 * 8; i += blockDim.x) {
        int row = i / 8;
        int chunk = i % 8;
        bool inside = first + row < length;
        const __half *source = inside ? from + (size_t)(first + row) * D + chunk * 8 : from;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(swizzled(to, row, chunk)), "l"(source), "r"(inside ? 16 : 0)
                     : "memory");
    }
}

extern "C" __global__ void __launch_bounds__(128) flash_attention(const __half *q, const __half *k, const __half *v, __half *out,
                                                                  int length, float scale, int causal) {
    __shared__ __align__(128) __half qs[QUERIES * D];
    __shared__ __align__(128) __half ks[KEYS * D];
    __shared__ __align__(128) __half vs[KEYS * D];
    size_t head = (size_t)blockIdx.y * length * D;
    int first_query = blockIdx.x * QUERIES;
    int lane = threadIdx.x % 32;
    int warp_row = threadIdx.x / 32 * 16;
    unsigned q_base = static_cast<unsigned>(__cvta_generic_to_shared(qs));
    unsigned k_base = static_cast<unsigned>(__cvta_generic_to_shared(ks));
    unsigned v_base = static_cast<unsigned>(__cvta_generic_to_shared(vs));

    fetch_rows(q_base, q + head, first_query, length);
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    unsigned fq[4][4];
#pragma unroll
    for (int kk = 0; kk < 4; ++kk) {
        load_matrices(fq[kk], swizzled(q_base, warp_row + lane % 16, kk * 2 + lane / 16));
    }

    float o[8][4] = {};
    float largest[2] = {-CUDART_INF_F, -CUDART_INF_F};
    float sum[2] = {0.0f, 0.0f};
    int end = causal ? min(length, first_query + QUERIES) : length;
    float scale_log2 = scale * 1.4426950408889634f;
    for (int first = 0; first < end; first += KEYS) {
        __syncthreads();
        fetch_rows(k_base, k + head, first, length);
        asm volatile("cp.async.commit_group;" ::: "memory");
        fetch_rows(v_base, v + head, first, length);
        asm volatile("cp.async.commit_group;" ::: "memory");
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();

        float s[8][4] = {};
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                unsigned fk[4];
                load_matrices(fk, swizzled(k_base, j * 16 + lane % 8 + lane / 16 * 8, kk * 2 + lane / 8 % 2));
                multiply(s[2 * j], fq[kk], fk[0], fk[1]);
                multiply(s[2 * j + 1], fq[kk], fk[2], fk[3]);
            }
        }

        float rescale[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int query = first_query + warp_row + lane / 4 + half * 8;
            float best = largest[half];
#pragma unroll
            for (int j = 0; j < 8; ++j) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    int key = first + j * 8 + lane % 4 * 2 + i;
                    if (key >= length || (causal && key > query)) {
                        s[j][half * 2 + i] = -CUDART_INF_F;
                    }
                    best = fmaxf(best, s[j][half * 2 + i]);
                }
            }
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
            float safe = best == -CUDART_INF_F ? 0.0f : best;
            rescale[half] = exp2f((largest[half] - safe) * scale_log2);
            largest[half] = best;
            float added = 0.0f;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float p = exp2f((s[j][half * 2 + i] - safe) * scale_log2);
                    s[j][half * 2 + i] = p;
                    added += p;
                }
            }
            sum[half] = sum[half] * rescale[half] + added;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            o[j][0] *= rescale[0];
            o[j][1] *= rescale[0];
            o[j][2] *= rescale[1];
            o[j][3] *= rescale[1];
        }

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
            unsigned fp[4] = {pack(s[2 * kk][0], s[2 * kk][1]), pack(s[2 * kk][2], s[2 * kk][3]),
                              pack(s[2 * kk + 1][0], s[2 * kk + 1][1]), pack(s[2 * kk + 1][2], s[2 * kk + 1][3])};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                unsigned fv[4];
                load_matrices_transposed(fv, swizzled(v_base, kk * 16 + lane % 16, j * 2 + lane / 16));
                multiply(o[2 * j], fp, fv[0], fv[1]);
                multiply(o[2 * j + 1], fp, fv[2], fv[3]);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float total = sum[half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        float inverse = 1.0f / total;
        int query = first_query + warp_row + lane / 4 + half * 8;
        if (query < length) {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                __half2 pair = __floats2half2_rn(o[j][half * 2] * inverse, o[j][half * 2 + 1] * inverse);
                *reinterpret_cast<__half2 *>(out + head + (size_t)query * D + j * 8 + lane % 4 * 2) = pair;
            }
        }
    }
}
