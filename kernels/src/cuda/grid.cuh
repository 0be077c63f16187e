// Blocks that wait for one another, and what they may read of each other.
#pragma once
#include "cuda/memory.cuh"

namespace segface {

// What is read here was written by other blocks of this launch: past the L1, which knows nothing of them.
__device__ __forceinline__ float load_from_others(const float *source) {
    float x;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(x) : "l"(source) : "memory");
    return x;
}
__device__ __forceinline__ void load_floats_from_others(float (&values)[1], const float *source) {
    values[0] = load_from_others(source);
}
__device__ __forceinline__ void load_floats_from_others(float (&values)[4], const float *source) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
                 : "l"(source)
                 : "memory");
}

// Counts the block among `blocks` that have come this far, and says, to all its threads, whether it is the last. What the
// others wrote before they came may then be read (`load_from_others`). `counter` is zero before the first and after the last.
__device__ __forceinline__ bool is_last(u32 *counter, int blocks) {
    __shared__ bool last;
    // One thread's fences, inside barriers, order what the whole block wrote and what it will read.
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicInc(counter, u32(blocks - 1)) == u32(blocks - 1);
        __threadfence();
    }
    __syncthreads();
    return last;
}

// Where all blocks of a cooperative, one-dimensional grid meet, as often as they like. What they wrote before may then be read. The two
// counters are zero before the launch and, when every block has left, after it.
struct GridBarrier {
    u32 *counters;
    u32 target = 0;

    __device__ __forceinline__ void meet() {
        __syncthreads();
        if (threadIdx.x == 0) {
            target += gridDim.x;
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counters) : "memory");
            u32 seen;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counters) : "memory");
            } while (seen < target);
        }
        __syncthreads();
    }
    __device__ __forceinline__ void leave() {
        if (threadIdx.x != 0) return;
        u32 left;
        asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(left) : "l"(counters + 1) : "memory");
        if (left == gridDim.x - 1) counters[0] = 0, counters[1] = 0;
    }
};

}  // namespace segface
