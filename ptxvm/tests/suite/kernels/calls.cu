// Device functions called through pointers, and recursion.

using Binary = int (*)(int, int);

__device__ __noinline__ int add(int a, int b) { return a + b; }
__device__ __noinline__ int subtract(int a, int b) { return a - b; }
__device__ __noinline__ int multiply(int a, int b) { return a * b; }
__device__ __noinline__ int greatest_divisor(int a, int b) {
    a = a < 0 ? -a : a;
    b = b < 0 ? -b : b;
    while (b != 0) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

__device__ Binary operators[4] = {add, subtract, multiply, greatest_divisor};

// Neighbouring lanes call different functions.
extern "C" __global__ void call_through_table(const int *which, const int *a, const int *b, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = operators[which[i] & 3](a[i], b[i]);
    }
}

__device__ __noinline__ unsigned int fibonacci(unsigned int n) {
    if (n < 2) {
        return n;
    }
    return fibonacci(n - 1) + fibonacci(n - 2);
}

extern "C" __global__ void recursive_fibonacci(const unsigned int *in, unsigned int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        out[i] = fibonacci(in[i]);
    }
}

// Quicksort by recursion on local memory: an array per thread, indexed at run time.
__device__ __noinline__ void quick_sort(int *values, int low, int high) {
    if (low >= high) {
        return;
    }
    int pivot = values[(low + high) / 2];
    int i = low;
    int j = high;
    while (i <= j) {
        while (values[i] < pivot) {
            ++i;
        }
        while (values[j] > pivot) {
            --j;
        }
        if (i <= j) {
            int swapped = values[i];
            values[i] = values[j];
            values[j] = swapped;
            ++i;
            --j;
        }
    }
    quick_sort(values, low, j);
    quick_sort(values, i, high);
}

extern "C" __global__ void sort_in_local_memory(const int *in, int *out, int rows) {
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) {
        return;
    }
    int values[24];
    for (int i = 0; i < 24; ++i) {
        values[i] = in[row * 24 + i];
    }
    quick_sort(values, 0, 23);
    for (int i = 0; i < 24; ++i) {
        out[row * 24 + i] = values[i];
    }
}
