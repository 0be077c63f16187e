// Output from the device.
extern "C" __global__ void print_lanes(int count, double scale) {
    if (threadIdx.x < count) {
        printf("lane %d of block %u: %s %.3f %5lld %#x %c%%\n", threadIdx.x, blockIdx.x, "value", threadIdx.x * scale,
               (long long)threadIdx.x * 10000000000ll, 255u + threadIdx.x, 'a' + threadIdx.x);
    }
}
