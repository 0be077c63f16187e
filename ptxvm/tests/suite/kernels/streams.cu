// Small kernels for the tests of streams, events, graphs, managed memory and several devices.

extern "C" __global__ void fill(float *out, float value, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = value;
    }
}

extern "C" __global__ void scale(float *data, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        data[i] *= factor;
    }
}

extern "C" __global__ void add(const float *a, const float *b, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = a[i] + b[i];
    }
}

__device__ int launches = 0;
__device__ float table[64];

extern "C" __global__ void count_launch(int *seen) {
    *seen = ++launches;
}

extern "C" __global__ void read_table(float *out) {
    out[threadIdx.x] = table[threadIdx.x] * 2.0f;
}
