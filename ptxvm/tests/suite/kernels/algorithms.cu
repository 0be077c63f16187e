// Binary search, n-body, Mandelbrot, Floyd-Warshall.

// For each key the first index whose element is not less than it.
extern "C" __global__ void lower_bound(const int *__restrict__ sorted, int length, const int *__restrict__ keys, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    int key = keys[i];
    int low = 0;
    int high = length;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (sorted[middle] < key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    out[i] = low;
}

// All-pairs gravity with tiles of bodies in shared memory.
extern "C" __global__ void nbody_forces(const float4 *bodies, float4 *accelerations, int n, float softening) {
    extern __shared__ float4 tile[];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float4 own = i < n ? bodies[i] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float ax = 0.0f;
    float ay = 0.0f;
    float az = 0.0f;
    for (int first = 0; first < n; first += blockDim.x) {
        int j = first + threadIdx.x;
        tile[threadIdx.x] = j < n ? bodies[j] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < blockDim.x; ++k) {
            float4 other = tile[k];
            float dx = other.x - own.x;
            float dy = other.y - own.y;
            float dz = other.z - own.z;
            float inverse = rsqrtf(dx * dx + dy * dy + dz * dz + softening);
            float weight = other.w * inverse * inverse * inverse;
            ax += dx * weight;
            ay += dy * weight;
            az += dz * weight;
        }
        __syncthreads();
    }
    if (i < n) {
        accelerations[i] = make_float4(ax, ay, az, 0.0f);
    }
}

extern "C" __global__ void mandelbrot(unsigned short *iterations, int width, int height, int limit) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    double cr = -2.0 + 3.0 * x / width;
    double ci = -1.5 + 3.0 * y / height;
    double zr = 0.0;
    double zi = 0.0;
    int count = 0;
    while (count < limit) {
        double rr = __dmul_rn(zr, zr);
        double ii = __dmul_rn(zi, zi);
        if (__dadd_rn(rr, ii) > 4.0) {
            break;
        }
        double cross = __dmul_rn(zr, zi);
        zr = __dadd_rn(__dsub_rn(rr, ii), cr);
        zi = __dadd_rn(__dadd_rn(cross, cross), ci);
        ++count;
    }
    iterations[y * width + x] = count;
}

// One pivot of Floyd-Warshall; the host launches it n times.
extern "C" __global__ void floyd_warshall_step(int *distance, int n, int pivot) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    int row = blockIdx.y;
    __shared__ int to_pivot;
    if (threadIdx.x == 0) {
        to_pivot = distance[row * n + pivot];
    }
    __syncthreads();
    if (column >= n || column == pivot || row == pivot) {
        return;
    }
    int through = to_pivot + distance[pivot * n + column];
    if (through < distance[row * n + column]) {
        distance[row * n + column] = through;
    }
}
