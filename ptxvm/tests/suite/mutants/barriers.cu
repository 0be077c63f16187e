// Barriers where threads could part ways.

// Every thread takes part in every round, with work or without.
extern "C" __global__ void rotate_rounds(const float *in, float *out, int n) {
    __shared__ float cells[64];
    int rounds = (n + blockDim.x - 1) / blockDim.x;
    for (int round = 0; round < rounds; ++round) {
        int i = round * blockDim.x + threadIdx.x;
        cells[threadIdx.x] = i < n ? in[i] : 0.0f;
        __syncthreads(); // after the writes
        float other = cells[(threadIdx.x + 1) % 64];
        __syncthreads(); // before the next round
        if (i < n) {
            out[i] = other;
        }
    }
}

extern "C" __global__ void split_roles(const float *in, float *out) {
    __shared__ float cells[64];
    if (threadIdx.x < 16) {
        cells[threadIdx.x] = in[threadIdx.x];
    } else {
        cells[threadIdx.x] = -in[threadIdx.x];
    }
    __syncthreads(); // roles meet
    out[threadIdx.x] = cells[63 - threadIdx.x];
}

// A barrier of the whole grid by hand: count up, then wait for all.
extern "C" __global__ void own_grid_barrier(int *cells, unsigned int *arrived) {
    if (threadIdx.x == 0) {
        cells[blockIdx.x] = blockIdx.x + 1;
        __threadfence(); // release
        atomicAdd(arrived, 1u);
        while (atomicAdd(arrived, 0u) < gridDim.x) {
        }
        __threadfence(); // acquire
    }
    __syncthreads();
    int other = cells[(blockIdx.x + 1) % gridDim.x];
    if (other != (int)((blockIdx.x + 1) % gridDim.x) + 1) {
        __trap();
    }
}
