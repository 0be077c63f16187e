// A block-wide sum with one __syncthreads() missing. Run it with
//   ptxvm run ptxvm/examples/race.cu --block 256 --arg 'f32[256]=iota' 'f32[1]=zero'
extern "C" __global__ void sum(const float *values, float *total) {
    __shared__ float partial[256];
    unsigned t = threadIdx.x;
    partial[t] = values[t];
    __syncthreads();
    for (unsigned step = 128; step > 0; step /= 2) {
        if (t < step) partial[t] += partial[t + step];
        // __syncthreads() belongs here.
    }
    if (t == 0) *total = partial[0];
}
