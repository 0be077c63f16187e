// Tables in constant, local and global memory, indexed at run time.

__constant__ float factors[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

extern "C" __global__ void look_up(const int *which, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = factors[which[i] & 15];
    }
}

extern "C" __global__ void count_in_local_memory(const int *values, int *out, int per_thread) {
    int counts[16];
    for (int i = 0; i < 16; ++i) {
        counts[i] = 0;
    }
    int thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < per_thread; ++i) {
        counts[values[thread * per_thread + i] & 15] += 1;
    }
    int most = 0;
    for (int i = 0; i < 16; ++i) {
        most = max(most, counts[(i + values[thread]) & 15]);
    }
    out[thread] = most;
}

__device__ float scratch[64];

extern "C" __global__ void fill_scratch(int count) {
    if (threadIdx.x < count) {
        scratch[threadIdx.x] = threadIdx.x;
    }
}

extern "C" __global__ void copy_words(const float *in, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = in[i];
    }
}

// Rows of a matrix through pointers: the row pointers are data.
extern "C" __global__ void sum_rows(const float *const *rows, float *out, int columns) {
    float sum = 0.0f;
    for (int i = 0; i < columns; ++i) {
        sum += rows[threadIdx.x][i];
    }
    out[threadIdx.x] = sum;
}
