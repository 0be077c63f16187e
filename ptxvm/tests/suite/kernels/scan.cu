// Prefix sums: within a block, and over many blocks in one pass by decoupled look-back.

// Work-efficient exclusive scan (up sweep, down sweep) of one tile of 2 x blockDim elements.
extern "C" __global__ void scan_exclusive_block(const int *in, int *out, int n) {
    extern __shared__ int tile[];
    int thread = threadIdx.x;
    int width = 2 * blockDim.x;
    int first = blockIdx.x * width;
    tile[2 * thread] = first + 2 * thread < n ? in[first + 2 * thread] : 0;
    tile[2 * thread + 1] = first + 2 * thread + 1 < n ? in[first + 2 * thread + 1] : 0;
    int offset = 1;
    for (int d = width >> 1; d > 0; d >>= 1) {
        __syncthreads();
        if (thread < d) {
            tile[offset * (2 * thread + 2) - 1] += tile[offset * (2 * thread + 1) - 1];
        }
        offset <<= 1;
    }
    if (thread == 0) {
        tile[width - 1] = 0;
    }
    for (int d = 1; d < width; d <<= 1) {
        offset >>= 1;
        __syncthreads();
        if (thread < d) {
            int left = offset * (2 * thread + 1) - 1;
            int right = offset * (2 * thread + 2) - 1;
            int carried = tile[left];
            tile[left] = tile[right];
            tile[right] += carried;
        }
    }
    __syncthreads();
    if (first + 2 * thread < n) {
        out[first + 2 * thread] = tile[2 * thread];
    }
    if (first + 2 * thread + 1 < n) {
        out[first + 2 * thread + 1] = tile[2 * thread + 1];
    }
}

__device__ __forceinline__ int warp_inclusive(int value) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(0xffffffffu, value, offset);
        if (lane >= offset) {
            value += other;
        }
    }
    return value;
}

// Inclusive scan of a block by shuffles.
__device__ int block_inclusive(int value, int *warp_totals) {
    int lane = threadIdx.x & 31;
    int warp = threadIdx.x >> 5;
    value = warp_inclusive(value);
    if (lane == 31) {
        warp_totals[warp] = value;
    }
    __syncthreads();
    if (warp == 0) {
        int total = lane < (blockDim.x >> 5) ? warp_totals[lane] : 0;
        warp_totals[lane] = warp_inclusive(total);
    }
    __syncthreads();
    return warp > 0 ? value + warp_totals[warp - 1] : value;
}

extern "C" __global__ void scan_inclusive_block(const int *in, int *out, int n) {
    __shared__ int warp_totals[32];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int value = block_inclusive(i < n ? in[i] : 0, warp_totals);
    if (i < n) {
        out[i] = value;
    }
}

// Single-pass scan. A tile's status word is {state, sum}: 1 = sum of the tile alone, 2 = sum of everything up to it.
// Blocks take tiles by ticket, so that a tile's predecessors are always running or done.
extern "C" __global__ void scan_decoupled_look_back(const int *in, int *out, unsigned long long *status,
                                                    unsigned int *ticket, int n) {
    __shared__ int warp_totals[32];
    __shared__ int tile_shared;
    __shared__ int before_shared;
    if (threadIdx.x == 0) {
        tile_shared = atomicAdd(ticket, 1u);
    }
    __syncthreads();
    int tile = tile_shared;
    int i = tile * blockDim.x + threadIdx.x;
    int value = block_inclusive(i < n ? in[i] : 0, warp_totals);
    int total = warp_totals[(blockDim.x >> 5) - 1];
    volatile unsigned long long *words = status;
    if (threadIdx.x == 0) {
        unsigned long long own = (unsigned long long)(tile == 0 ? 2 : 1) << 32 | (unsigned int)total;
        words[tile] = own;
        __threadfence();
    }
    if (threadIdx.x < 32) {
        int before = 0;
        int lane = threadIdx.x;
        int window = tile - 1;
        while (window >= 0) {
            int look = window - lane;
            unsigned long long word = 2ull << 32;
            if (look >= 0) {
                do {
                    word = words[look];
                } while ((word >> 32) == 0);
            }
            __syncwarp();
            unsigned complete = __ballot_sync(0xffffffffu, (word >> 32) == 2);
            int nearest = __ffs(complete) - 1;
            int part = nearest < 0 || lane <= nearest ? (int)(unsigned int)word : 0;
            for (int offset = 16; offset > 0; offset >>= 1) {
                part += __shfl_xor_sync(0xffffffffu, part, offset);
            }
            before += part;
            if (complete != 0) {
                break;
            }
            window -= 32;
        }
        if (lane == 0) {
            if (tile > 0) {
                words[tile] = 2ull << 32 | (unsigned int)(before + total);
                __threadfence();
            }
            before_shared = before;
        }
    }
    __syncthreads();
    if (i < n) {
        out[i] = before_shared + value;
    }
}
