// Conjugate gradient in one cooperative launch: A is the 1D Laplacian plus a shift, sums are grid-wide.
#include <cooperative_groups.h>

namespace cg = cooperative_groups;

__device__ double grid_dot(const double *a, const double *b, int n, double *slot, cg::grid_group &grid) {
    __shared__ double partial[32];
    cg::thread_block block = cg::this_thread_block();
    cg::thread_block_tile<32> tile = cg::tiled_partition<32>(block);
    double sum = 0.0;
    for (int i = grid.thread_rank(); i < n; i += grid.size()) {
        sum += a[i] * b[i];
    }
    for (int offset = 16; offset > 0; offset >>= 1) {
        sum += tile.shfl_down(sum, offset);
    }
    if (tile.thread_rank() == 0) {
        partial[tile.meta_group_rank()] = sum;
    }
    block.sync();
    if (block.thread_rank() == 0) {
        for (int i = 1; i < tile.meta_group_size(); ++i) {
            sum += partial[i];
        }
        atomicAdd(slot, sum);
    }
    grid.sync();
    double result = *slot;
    return result;
}

// `dots` holds 2 x iterations + 1 zeros: no slot is used twice, so no barrier is needed to clear one.
extern "C" __global__ void conjugate_gradient(const double *b, double *x, double *r, double *p, double *ap, double *dots, int n,
                                              double shift, int iterations) {
    cg::grid_group grid = cg::this_grid();
    for (int i = grid.thread_rank(); i < n; i += grid.size()) {
        x[i] = 0.0;
        r[i] = b[i];
        p[i] = b[i];
    }
    grid.sync();
    double rr = grid_dot(r, r, n, dots, grid);
    for (int step = 0; step < iterations && rr > 1e-24; ++step) {
        for (int i = grid.thread_rank(); i < n; i += grid.size()) {
            double left = i > 0 ? p[i - 1] : 0.0;
            double right = i < n - 1 ? p[i + 1] : 0.0;
            ap[i] = (2.0 + shift) * p[i] - left - right;
        }
        double pap = grid_dot(p, ap, n, dots + 1 + 2 * step, grid);
        double alpha = rr / pap;
        for (int i = grid.thread_rank(); i < n; i += grid.size()) {
            x[i] += alpha * p[i];
            r[i] -= alpha * ap[i];
        }
        double next = grid_dot(r, r, n, dots + 2 + 2 * step, grid);
        double beta = next / rr;
        rr = next;
        for (int i = grid.thread_rank(); i < n; i += grid.size()) {
            p[i] = r[i] + beta * p[i];
        }
        grid.sync();
    }
}
