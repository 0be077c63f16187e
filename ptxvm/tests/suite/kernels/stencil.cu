// Stencils and convolutions.

// One Jacobi step of the 5-point Laplacian with a halo in shared memory; the border is copied.
#define W 16
extern "C" __global__ void jacobi_2d(const float *in, float *out, int width, int height) {
    __shared__ float tile[W + 2][W + 2];
    int x = blockIdx.x * W + threadIdx.x;
    int y = blockIdx.y * W + threadIdx.y;
    int tx = threadIdx.x + 1;
    int ty = threadIdx.y + 1;
    int cx = min(x, width - 1);
    int cy = min(y, height - 1);
    tile[ty][tx] = in[cy * width + cx];
    if (threadIdx.x == 0) {
        tile[ty][0] = in[cy * width + max(x - 1, 0)];
    }
    if (threadIdx.x == W - 1) {
        tile[ty][W + 1] = in[cy * width + min(x + 1, width - 1)];
    }
    if (threadIdx.y == 0) {
        tile[0][tx] = in[max(y - 1, 0) * width + cx];
    }
    if (threadIdx.y == W - 1) {
        tile[W + 1][tx] = in[min(y + 1, height - 1) * width + cx];
    }
    __syncthreads();
    if (x >= width || y >= height) {
        return;
    }
    bool border = x == 0 || y == 0 || x == width - 1 || y == height - 1;
    float value = tile[ty][tx];
    if (!border) {
        value = 0.25f * (tile[ty - 1][tx] + tile[ty + 1][tx] + tile[ty][tx - 1] + tile[ty][tx + 1]);
    }
    out[y * width + x] = value;
}

// 7-point stencil, marching in z with the column in registers.
extern "C" __global__ void stencil_3d(const float *__restrict__ in, float *__restrict__ out, int nx, int ny, int nz, float centre,
                                      float side) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < 1 || y < 1 || x >= nx - 1 || y >= ny - 1) {
        return;
    }
    int plane = nx * ny;
    int at = y * nx + x;
    float below = in[at];
    float here = in[at + plane];
    for (int z = 1; z < nz - 1; ++z) {
        int i = at + z * plane;
        float above = in[i + plane];
        out[i] = centre * here + side * (below + above + in[i - 1] + in[i + 1] + in[i - nx] + in[i + nx]);
        below = here;
        here = above;
    }
}

#define RADIUS 8
__constant__ float taps[2 * RADIUS + 1];

// Row convolution with the taps in constant memory and the row in shared memory; outside the image is 0.
extern "C" __global__ void convolve_rows(const float *in, float *out, int width, int height) {
    __shared__ float row[128 + 2 * RADIUS];
    int first = blockIdx.x * 128;
    int y = blockIdx.y;
    for (int i = threadIdx.x; i < 128 + 2 * RADIUS; i += blockDim.x) {
        int x = first + i - RADIUS;
        row[i] = x >= 0 && x < width ? in[y * width + x] : 0.0f;
    }
    __syncthreads();
    int x = first + threadIdx.x;
    if (x < width) {
        float sum = 0.0f;
#pragma unroll
        for (int tap = 0; tap <= 2 * RADIUS; ++tap) {
            sum = fmaf(taps[tap], row[threadIdx.x + tap], sum);
        }
        out[y * width + x] = sum;
    }
}

// Depthwise 3x3, channels last, borders 0.
extern "C" __global__ void depthwise_3x3(const float *__restrict__ in, const float *__restrict__ weights, float *__restrict__ out,
                                         int height, int width, int channels) {
    int total = height * width * channels;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        int c = i % channels;
        int x = i / channels % width;
        int y = i / channels / width;
        float sum = 0.0f;
        for (int dy = -1; dy <= 1; ++dy) {
            for (int dx = -1; dx <= 1; ++dx) {
                if (y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width) {
                    sum = fmaf(in[((y + dy) * width + x + dx) * channels + c], weights[((dy + 1) * 3 + dx + 1) * channels + c], sum);
                }
            }
        }
        out[i] = sum;
    }
}

// Bilinear upsampling by 2 (half-pixel centres), computed without textures.
extern "C" __global__ void upsample_bilinear_2x(const float *__restrict__ in, float *__restrict__ out, int height, int width) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= 2 * width || y >= 2 * height) {
        return;
    }
    float sx = fmaxf(0.5f * (x + 0.5f) - 0.5f, 0.0f);
    float sy = fmaxf(0.5f * (y + 0.5f) - 0.5f, 0.0f);
    int x0 = __float2int_rd(sx);
    int y0 = __float2int_rd(sy);
    int x1 = min(x0 + 1, width - 1);
    int y1 = min(y0 + 1, height - 1);
    float fx = sx - x0;
    float fy = sy - y0;
    float top = __ldg(in + y0 * width + x0) * (1.0f - fx) + __ldg(in + y0 * width + x1) * fx;
    float bottom = __ldg(in + y1 * width + x0) * (1.0f - fx) + __ldg(in + y1 * width + x1) * fx;
    out[y * 2 * width + x] = top * (1.0f - fy) + bottom * fy;
}
