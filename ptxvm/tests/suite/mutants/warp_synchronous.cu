// Exchanges through shared memory within a warp, as they were written before shuffles.

extern "C" __global__ void sum_without_shuffles(const float *in, float *out) {
    __shared__ float cells[128];
    int lane = threadIdx.x % 32;
    int i = blockIdx.x * 128 + threadIdx.x;
    cells[threadIdx.x] = in[i];
    __syncthreads();
    if (threadIdx.x < 64) {
        cells[threadIdx.x] = cells[threadIdx.x] + cells[threadIdx.x + 64];
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        float sum = cells[lane] + cells[lane + 32];
        __syncwarp();
        cells[lane] = sum;
        __syncwarp();
        for (int offset = 16; offset > 0; offset /= 2) {
            if (lane < offset) {
                sum += cells[lane + offset];
            }
            __syncwarp(); // between reads and writes
            if (lane < offset) {
                cells[lane] = sum;
            }
            __syncwarp(); // between writes and reads
        }
        if (lane == 0) {
            out[blockIdx.x] = sum;
        }
    }
}

extern "C" __global__ void broadcast_in_warp(const float *in, float *out) {
    __shared__ float leaders[4];
    int warp = threadIdx.x / 32;
    int i = blockIdx.x * 128 + threadIdx.x;
    float value = in[i];
    if (threadIdx.x % 32 == 7) {
        leaders[warp] = value;
    }
    __syncwarp();
    out[i] = value + leaders[warp];
}
