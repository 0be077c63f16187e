// Stream compaction: keep the positive elements.

// Order within a warp is kept, warps come in any order: one atomic a warp.
extern "C" __global__ void compact_ballot(const int *in, int *out, int *count, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int lane = threadIdx.x & 31;
    int value = i < n ? in[i] : 0;
    bool keep = value > 0;
    unsigned mask = __ballot_sync(0xffffffffu, keep);
    int base = 0;
    if (lane == 0 && mask != 0) {
        base = atomicAdd(count, __popc(mask));
    }
    base = __shfl_sync(0xffffffffu, base, 0);
    if (keep) {
        out[base + __popc(mask & ((1u << lane) - 1))] = value;
    }
}

// The aggregation a compiler would do by itself: whoever is active elects a leader.
__device__ __forceinline__ int aggregated_add(int *counter) {
    unsigned active = __activemask();
    int leader = __ffs(active) - 1;
    int lane = threadIdx.x & 31;
    int base = 0;
    if (lane == leader) {
        base = atomicAdd(counter, __popc(active));
    }
    base = __shfl_sync(active, base, leader);
    return base + __popc(active & ((1u << lane) - 1));
}

extern "C" __global__ void compact_aggregated(const int *in, int *out, int *count, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        int value = in[i];
        if (value > 0) {
            out[aggregated_add(count)] = value;
        }
    }
}
