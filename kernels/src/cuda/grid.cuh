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

// Waits until every block of a cooperative grid, one-dimensional, is here; once per launch. What they wrote before may then be
// read (`load_from_others`). `counters[2]` are zero before and after the launch: the second counts those who leave.
__device__ __forceinline__ void wait_for_grid(u32 *counters) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(&counters[0], 1u);
        u32 arrived;
        do {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(&counters[0]) : "memory");
        } while (arrived < gridDim.x);
        __threadfence();
        if (atomicInc(&counters[1], gridDim.x - 1) == gridDim.x - 1) atomicExch(&counters[0], 0u);
    }
    __syncthreads();
}

}  // namespace segface
