// Two producer warps and two consumer warps meet at named barriers: full (1, 2) and empty (3, 4), one pair a buffer.

#define CHUNK 64

extern "C" __global__ void __launch_bounds__(128) named_barrier_pipeline(const int *in, int *out, int chunks) {
    __shared__ int buffers[2][CHUNK];
    size_t first = (size_t)blockIdx.x * chunks * CHUNK;
    if (threadIdx.x < 64) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
            int buffer = chunk & 1;
            if (chunk >= 2) {
                asm volatile("bar.sync %0, 128;" ::"r"(3 + buffer) : "memory");
            }
            buffers[buffer][threadIdx.x] = in[first + chunk * CHUNK + threadIdx.x];
            asm volatile("bar.arrive %0, 128;" ::"r"(1 + buffer) : "memory");
        }
    } else {
        int consumer = threadIdx.x - 64;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            int buffer = chunk & 1;
            asm volatile("bar.sync %0, 128;" ::"r"(1 + buffer) : "memory");
            int sum = buffers[buffer][consumer] + buffers[buffer][(consumer + 1) % CHUNK];
            if (chunk + 2 < chunks) {
                asm volatile("bar.arrive %0, 128;" ::"r"(3 + buffer) : "memory");
            }
            out[first + chunk * CHUNK + consumer] = sum;
        }
    }
}

// Barriers that reduce a predicate.
extern "C" __global__ void block_votes(const int *in, int *counts, int *ands, int *ors) {
    int value = in[blockIdx.x * blockDim.x + threadIdx.x];
    int count = __syncthreads_count(value > 0);
    int all = __syncthreads_and(value > -100);
    int any = __syncthreads_or(value > 90);
    if (threadIdx.x == 0) {
        counts[blockIdx.x] = count;
        ands[blockIdx.x] = all != 0;
        ors[blockIdx.x] = any != 0;
    }
}
