// A lock taken by every lane by itself: needs independent thread scheduling within the warp.

__device__ int lock_word = 0;

extern "C" __global__ void count_under_lock(int *counter, int *order, int rounds) {
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (int round = 0; round < rounds; ++round) {
        while (atomicCAS(&lock_word, 0, 1) != 0) {
        }
        __threadfence();
        int ticket = *counter;
        *counter = ticket + 1;
        order[ticket] = thread;
        __threadfence();
        atomicExch(&lock_word, 0);
    }
}

// The loop with a flag, which works on every architecture.
extern "C" __global__ void insert_sorted_list(int *heads, int *next, const int *keys, int *locks, int buckets, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    int bucket = keys[i] % buckets;
    bool done = false;
    while (!done) {
        if (atomicCAS(&locks[bucket], 0, 1) == 0) {
            __threadfence();
            int *link = heads + bucket;
            while (*link >= 0 && keys[*link] < keys[i]) {
                link = next + *link;
            }
            next[i] = *link;
            *link = i;
            __threadfence();
            atomicExch(&locks[bucket], 0);
            done = true;
        }
    }
}
