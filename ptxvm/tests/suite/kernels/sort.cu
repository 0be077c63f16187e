// Sorts of 32-bit keys.

// Bitonic sort of one tile a block; the tile's length is a power of two, twice the number of threads.
extern "C" __global__ void bitonic_sort_tile(unsigned int *keys) {
    extern __shared__ unsigned int tile[];
    int length = 2 * blockDim.x;
    unsigned int *own = keys + (size_t)blockIdx.x * length;
    tile[threadIdx.x] = own[threadIdx.x];
    tile[threadIdx.x + blockDim.x] = own[threadIdx.x + blockDim.x];
    for (int size = 2; size <= length; size <<= 1) {
        for (int stride = size >> 1; stride > 0; stride >>= 1) {
            __syncthreads();
            int low = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
            int high = low + stride;
            bool ascending = (low & size) == 0;
            unsigned int a = tile[low];
            unsigned int b = tile[high];
            if ((a > b) == ascending) {
                tile[low] = b;
                tile[high] = a;
            }
        }
    }
    __syncthreads();
    own[threadIdx.x] = tile[threadIdx.x];
    own[threadIdx.x + blockDim.x] = tile[threadIdx.x + blockDim.x];
}

// Least-significant-digit radix sort, four bits a pass: count, scan, scatter.
extern "C" __global__ void radix_count(const unsigned int *keys, unsigned int *counts, int n, int shift) {
    __shared__ unsigned int digits[16];
    if (threadIdx.x < 16) {
        digits[threadIdx.x] = 0;
    }
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomicAdd(&digits[keys[i] >> shift & 15], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        counts[threadIdx.x * gridDim.x + blockIdx.x] = digits[threadIdx.x];
    }
}

// Exclusive scan of the counts by one block of 1024 threads.
extern "C" __global__ void radix_scan(unsigned int *counts, int n) {
    __shared__ unsigned int sums[1024];
    __shared__ unsigned int carry;
    if (threadIdx.x == 0) {
        carry = 0;
    }
    __syncthreads();
    for (int first = 0; first < n; first += 1024) {
        int i = first + threadIdx.x;
        unsigned int own = i < n ? counts[i] : 0;
        sums[threadIdx.x] = own;
        __syncthreads();
        for (int offset = 1; offset < 1024; offset <<= 1) {
            unsigned int other = threadIdx.x >= offset ? sums[threadIdx.x - offset] : 0;
            __syncthreads();
            sums[threadIdx.x] += other;
            __syncthreads();
        }
        unsigned int before = carry;
        if (i < n) {
            counts[i] = before + sums[threadIdx.x] - own;
        }
        __syncthreads();
        if (threadIdx.x == 1023) {
            carry = before + sums[1023];
        }
        __syncthreads();
    }
}

// Stable scatter: rank within the warp by matching digits, over the warps by a table.
extern "C" __global__ void radix_scatter(const unsigned int *keys, unsigned int *out, const unsigned int *offsets, int n,
                                         int shift) {
    __shared__ unsigned int warp_digits[32][16];
    int lane = threadIdx.x & 31;
    int warp = threadIdx.x >> 5;
    int warps = blockDim.x >> 5;
    for (int i = threadIdx.x; i < warps * 16; i += blockDim.x) {
        warp_digits[i / 16][i % 16] = 0;
    }
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    bool valid = i < n;
    unsigned int key = valid ? keys[i] : 0;
    unsigned int digit = key >> shift & 15;
    unsigned int peers = __match_any_sync(0xffffffffu, valid ? digit : 16u);
    unsigned int rank = __popc(peers & ((1u << lane) - 1));
    if (valid && rank == 0) {
        warp_digits[warp][digit] = __popc(peers);
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        unsigned int sum = 0;
        for (int w = 0; w < warps; ++w) {
            unsigned int count = warp_digits[w][threadIdx.x];
            warp_digits[w][threadIdx.x] = sum;
            sum += count;
        }
    }
    __syncthreads();
    if (valid) {
        out[offsets[digit * gridDim.x + blockIdx.x] + warp_digits[warp][digit] + rank] = key;
    }
}
