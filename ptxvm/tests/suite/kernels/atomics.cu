// 64-bit atomics and compare-and-swap loops.

// A double's maximum by a compare-and-swap loop on its bits.
__device__ double atomic_max(double *address, double value) {
    unsigned long long *bits = reinterpret_cast<unsigned long long *>(address);
    unsigned long long seen = *reinterpret_cast<volatile unsigned long long *>(bits);
    while (__longlong_as_double(seen) < value) {
        unsigned long long before = atomicCAS(bits, seen, __double_as_longlong(value));
        if (before == seen) {
            break;
        }
        seen = before;
    }
    return __longlong_as_double(seen);
}

extern "C" __global__ void atomics_64(const double *in, unsigned long long *sum, double *total, double *largest, long long *lowest,
                                      int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomicAdd(sum, (unsigned long long)i * 4294967296ull + 7ull);
        atomicAdd(total, in[i]);
        atomic_max(largest, in[i]);
        atomicMin(lowest, (long long)(in[i] * 1e12));
    }
}

// The loop that the programming guide builds other atomics from: the plain load is a guess, which the swap checks.
__device__ void atomic_multiply(float *address, float value) {
    int *bits = reinterpret_cast<int *>(address);
    int old = *bits, assumed;
    do {
        assumed = old;
        old = atomicCAS(bits, assumed, __float_as_int(value * __int_as_float(assumed)));
    } while (assumed != old);
}

extern "C" __global__ void product(const float *in, float *product, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomic_multiply(product, in[i]);
    }
}

// Open addressing: every distinct key gets one slot, the slot counts its keys.
extern "C" __global__ void hash_insert(const unsigned long long *keys, unsigned long long *table, unsigned int *counts,
                                       unsigned int capacity, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    unsigned long long key = keys[i];
    unsigned int slot = (unsigned int)(key * 0x9e3779b97f4a7c15ull >> 40) & (capacity - 1);
    while (true) {
        unsigned long long before = atomicCAS(&table[slot], 0ull, key);
        if (before == 0ull || before == key) {
            atomicAdd(&counts[slot], 1u);
            return;
        }
        slot = (slot + 1) & (capacity - 1);
    }
}

// Exchange, the bit operations, maximum and the wrapping decrement.
extern "C" __global__ void exchange_and_bits(unsigned int *words, unsigned int *previous, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        previous[i] = atomicExch(&words[i % 32], (unsigned int)i);
        atomicXor(&words[32], 1u << (i & 31));
        atomicMax(&words[33], (unsigned int)i);
        atomicDec(&words[34], 1000u);
        atomicAnd(&words[35], ~(1u << (i & 15)));
    }
}
