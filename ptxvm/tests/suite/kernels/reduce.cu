// Sums of an array in the ways they are usually written.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

namespace cg = cooperative_groups;

// Interleaved tree in dynamic shared memory, one partial sum a block.
extern "C" __global__ void reduce_shared_tree(const float *in, float *partial, int n) {
    extern __shared__ float tree[];
    unsigned thread = threadIdx.x;
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + thread; i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    tree[thread] = sum;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half >>= 1) {
        if (thread < half) {
            tree[thread] += tree[thread + half];
        }
        __syncthreads();
    }
    if (thread == 0) {
        partial[blockIdx.x] = tree[0];
    }
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        value += __shfl_down_sync(0xffffffffu, value, offset);
    }
    return value;
}

// Warp shuffles, then one warp over the warps' sums, then one atomic a block.
extern "C" __global__ void reduce_shuffle_atomic(const float *in, float *total, int n) {
    __shared__ float warp_sums[32];
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        warp_sums[warp] = sum;
    }
    __syncthreads();
    if (warp == 0) {
        sum = lane < blockDim.x / 32 ? warp_sums[lane] : 0.0f;
        sum = warp_sum(sum);
        if (lane == 0) {
            atomicAdd(total, sum);
        }
    }
}

extern "C" __global__ void reduce_atomic_integers(const int *in, int *sum, int *lowest, unsigned *bits, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomicAdd(sum, in[i]);
        atomicMin(lowest, in[i]);
        atomicOr(bits, 1u << (in[i] & 31));
    }
}

extern "C" __global__ void reduce_groups(const int *in, int *total, int n) {
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<32> tile = cg::tiled_partition<32>(block);
    int sum = 0;
    for (int i = block.group_index().x * block.size() + block.thread_rank(); i < n; i += gridDim.x * block.size()) {
        sum += in[i];
    }
    sum = cg::reduce(tile, sum, cg::plus<int>());
    if (tile.thread_rank() == 0) {
        atomicAdd(total, sum);
    }
}

// The class many libraries have: storage in shared memory, a reduction by an operator, valid in thread 0.
template <typename T, int THREADS> struct BlockReduce {
    struct Storage {
        T warps[THREADS / 32];
    };
    Storage &storage;
    __device__ explicit BlockReduce(Storage &shared) : storage(shared) {}

    template <typename Op> __device__ T reduce(T value, Op op) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
            value = op(value, __shfl_xor_sync(0xffffffffu, value, offset));
        }
        if (threadIdx.x % 32 == 0) {
            storage.warps[threadIdx.x / 32] = value;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
#pragma unroll
            for (int warp = 1; warp < THREADS / 32; ++warp) {
                value = op(value, storage.warps[warp]);
            }
        }
        return value;
    }
};

struct Largest {
    template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

extern "C" __global__ void __launch_bounds__(256) reduce_block_class(const double *in, double *largest, int n) {
    using Reduce = BlockReduce<double, 256>;
    __shared__ Reduce::Storage storage;
    double best = -1.0e300;
    for (int i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
        best = in[i] > best ? in[i] : best;
    }
    best = Reduce(storage).reduce(best, Largest());
    if (threadIdx.x == 0) {
        largest[blockIdx.x] = best;
    }
}

__device__ unsigned int blocks_done = 0;

// One launch: every block writes its sum, the block that comes last adds them up.
extern "C" __global__ void reduce_last_block(const float *in, float *partial, float *total, int n) {
    __shared__ float warp_sums[32];
    __shared__ bool last;
    int lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32;
    float sum = 0.0f;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        sum += in[i];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        warp_sums[warp] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0.0f;
        for (int i = 0; i < blockDim.x / 32; ++i) {
            sum += warp_sums[i];
        }
        partial[blockIdx.x] = sum;
        __threadfence();
        unsigned int ticket = atomicInc(&blocks_done, gridDim.x - 1);
        __threadfence();
        last = ticket == gridDim.x - 1;
    }
    __syncthreads();
    if (last && warp == 0) {
        sum = 0.0f;
        for (int i = lane; i < gridDim.x; i += 32) {
            sum += partial[i];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            *total = sum;
        }
    }
}
