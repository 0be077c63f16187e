// Votes, matches and shuffles between the lanes of a warp.

// Sum of the values of all lanes with the same key, written by the lowest of them.
extern "C" __global__ void sum_by_key(const int *keys, const int *values, int *sums, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned valid = __ballot_sync(0xffffffffu, i < n);
    if (i >= n) {
        return;
    }
    unsigned peers = __match_any_sync(valid, keys[i]);
    int lane = threadIdx.x & 31;
    int value = values[i];
    int sum = 0;
    for (unsigned left = valid; left != 0; left &= left - 1) {
        int other = __ffs(left) - 1;
        int theirs = __shfl_sync(valid, value, other);
        if (peers >> other & 1) {
            sum += theirs;
        }
    }
    if (lane == __ffs(peers) - 1) {
        atomicAdd(&sums[keys[i]], sum);
    }
}

// out[warp] = {all lanes equal?, any above limit, all above limit, lanes in a row}.
extern "C" __global__ void warp_votes(const int *in, int4 *out, int limit) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int value = in[i];
    int same = 0;
    __match_all_sync(0xffffffffu, value, &same);
    int any = __any_sync(0xffffffffu, value > limit);
    int all = __all_sync(0xffffffffu, value > limit);
    unsigned above = __ballot_sync(0xffffffffu, value > limit);
    int longest = 0;
    while (above != 0) {
        above &= above << 1;
        ++longest;
    }
    if ((threadIdx.x & 31) == 0) {
        out[i / 32] = make_int4(same != 0, any != 0, all != 0, longest);
    }
}

// Transpose of 32 x 32 bits by shuffles.
extern "C" __global__ void transpose_bits(const unsigned *in, unsigned *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned lane = threadIdx.x & 31;
    unsigned row = in[i];
    const unsigned masks[5] = {0x0000ffffu, 0x00ff00ffu, 0x0f0f0f0fu, 0x33333333u, 0x55555555u};
#pragma unroll
    for (int step = 0; step < 5; ++step) {
        int distance = 16 >> step;
        unsigned other = __shfl_xor_sync(0xffffffffu, row, distance);
        row = lane & distance ? (other >> distance & masks[step]) | (row & ~masks[step])
                              : (row & masks[step]) | (other << distance & ~masks[step]);
    }
    out[i] = row;
}

// Exchange through shared memory within a warp, ordered by __syncwarp.
extern "C" __global__ void reverse_in_warp(const int *in, int *out) {
    __shared__ int slots[256];
    int lane = threadIdx.x & 31;
    int warp = threadIdx.x & ~31;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    slots[threadIdx.x] = in[i];
    __syncwarp();
    int reversed = slots[warp + 31 - lane];
    __syncwarp();
    slots[threadIdx.x] = reversed * 2;
    __syncwarp();
    out[i] = slots[warp + (lane ^ 1)];
}

// Integer reductions of a whole warp in one instruction where the architecture has it.
extern "C" __global__ void warp_reduce_integers(const unsigned *in, unsigned *sums, unsigned *largest, unsigned *bits) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned value = in[i];
#if __CUDA_ARCH__ >= 800
    unsigned sum = __reduce_add_sync(0xffffffffu, value);
    unsigned high = __reduce_max_sync(0xffffffffu, value);
    unsigned either = __reduce_xor_sync(0xffffffffu, value);
#else
    unsigned sum = value, high = value, either = value;
    for (int offset = 16; offset > 0; offset >>= 1) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        high = max(high, __shfl_xor_sync(0xffffffffu, high, offset));
        either ^= __shfl_xor_sync(0xffffffffu, either, offset);
    }
#endif
    if ((threadIdx.x & 31) == 0) {
        sums[i / 32] = sum;
        largest[i / 32] = high;
        bits[i / 32] = either;
    }
}
