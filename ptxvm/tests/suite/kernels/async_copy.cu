// cp.async by inline PTX, without any pipeline class; requires compute_80.

#define TILE 256

__device__ __forceinline__ void copy_async_4(float *to, const float *from) {
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
}

// Each block smooths `tiles` tiles in a row; while one is worked on, the next one is on its way.
extern "C" __global__ void smooth_double_buffered(const float *in, float *out, int tiles) {
    __shared__ float buffers[2][TILE];
    int thread = threadIdx.x;
    size_t first = (size_t)blockIdx.x * tiles * TILE;
    copy_async_4(&buffers[0][thread], in + first + thread);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int tile = 0; tile < tiles; ++tile) {
        if (tile + 1 < tiles) {
            copy_async_4(&buffers[(tile + 1) & 1][thread], in + first + (tile + 1) * TILE + thread);
            asm volatile("cp.async.commit_group;" ::: "memory");
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        const float *buffer = buffers[tile & 1];
        float left = buffer[thread > 0 ? thread - 1 : 0];
        float right = buffer[thread < TILE - 1 ? thread + 1 : TILE - 1];
        out[first + tile * TILE + thread] = 0.25f * left + 0.5f * buffer[thread] + 0.25f * right;
        __syncthreads();
    }
}

// 16-byte copies with zero fill past the end; the block reverses its tile of 1024 values.
extern "C" __global__ void reverse_zero_filled(const float *in, float *out, int n) {
    __shared__ __align__(16) float tile[1024];
    int first = blockIdx.x * 1024;
    int at = threadIdx.x * 4;
    int left = n - (first + at);
    int bytes = left >= 4 ? 16 : left > 0 ? left * 4 : 0;
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(tile + at));
    const float *from = left > 0 ? in + first + at : in;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    for (int i = threadIdx.x; i < 1024; i += blockDim.x) {
        out[first + i] = tile[1023 - i];
    }
}
