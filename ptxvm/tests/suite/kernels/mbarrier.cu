// A producer warp feeds three consumer warps through a ring of two stages, with mbarriers by inline PTX; requires compute_80.

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(unsigned long long *barrier, unsigned count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(unsigned long long *barrier) {
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(shared_address(barrier)) : "memory");
}

__device__ __forceinline__ void barrier_wait(unsigned long long *barrier, unsigned parity) {
    asm volatile("{\n\t.reg .pred done;\n\tAGAIN:\n\tmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n\t"
                 "@!done bra AGAIN;\n\t}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

#define STAGES 2
#define CHUNK 96

extern "C" __global__ void __launch_bounds__(128) ring_of_mbarriers(const float *in, float *out, int chunks) {
    __shared__ float ring[STAGES][CHUNK];
    __shared__ __align__(8) unsigned long long full[STAGES];
    __shared__ __align__(8) unsigned long long empty[STAGES];
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&full[i], 32);
            barrier_init(&empty[i], 96);
        }
    }
    __syncthreads();
    size_t first = (size_t)blockIdx.x * chunks * CHUNK;
    if (threadIdx.x < 32) {
        for (int chunk = 0; chunk < chunks; ++chunk) {
            int stage = chunk % STAGES;
            if (chunk >= STAGES) {
                barrier_wait(&empty[stage], (chunk / STAGES - 1) & 1);
            }
            for (int i = threadIdx.x; i < CHUNK; i += 32) {
                ring[stage][i] = in[first + chunk * CHUNK + i];
            }
            barrier_arrive(&full[stage]);
        }
    } else {
        int consumer = threadIdx.x - 32;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            int stage = chunk % STAGES;
            barrier_wait(&full[stage], chunk / STAGES & 1);
            float value = ring[stage][CHUNK - 1 - consumer];
            barrier_arrive(&empty[stage]);
            out[first + chunk * CHUNK + consumer] = value * 2.0f;
        }
    }
}

// cp.async signals an mbarrier by itself.
extern "C" __global__ void __launch_bounds__(128) copies_arrive_on_mbarrier(const float *in, float *out) {
    __shared__ float tile[128];
    __shared__ __align__(8) unsigned long long barrier;
    if (threadIdx.x == 0) {
        barrier_init(&barrier, 128);
    }
    __syncthreads();
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(tile + threadIdx.x)),
                 "l"(in + blockIdx.x * 128 + threadIdx.x)
                 : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(&barrier)) : "memory");
    barrier_wait(&barrier, 0);
    out[blockIdx.x * 128 + threadIdx.x] = tile[127 - threadIdx.x];
}
