// 256-bin histograms of bytes.

extern "C" __global__ void histogram_shared(const unsigned char *in, unsigned int *bins, int n) {
    __shared__ unsigned int local[256];
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) {
        local[bin] = 0;
    }
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&local[in[i]], 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) {
        if (local[bin] != 0) {
            atomicAdd(&bins[bin], local[bin]);
        }
    }
}

// One sub-histogram a warp, summed by the block; four bytes a load.
extern "C" __global__ void histogram_privatised(const unsigned int *words, unsigned int *bins, int count) {
    extern __shared__ unsigned int private_bins[];
    int warps = blockDim.x / 32;
    for (int i = threadIdx.x; i < warps * 256; i += blockDim.x) {
        private_bins[i] = 0;
    }
    __syncthreads();
    unsigned int *mine = private_bins + threadIdx.x / 32 * 256;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        unsigned int word = words[i];
        atomicAdd(mine + (word & 255), 1u);
        atomicAdd(mine + (word >> 8 & 255), 1u);
        atomicAdd(mine + (word >> 16 & 255), 1u);
        atomicAdd(mine + (word >> 24), 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < 256; bin += blockDim.x) {
        unsigned int sum = 0;
        for (int warp = 0; warp < warps; ++warp) {
            sum += private_bins[warp * 256 + bin];
        }
        atomicAdd(&bins[bin], sum);
    }
}
