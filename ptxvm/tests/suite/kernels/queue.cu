// A persistent kernel: blocks take intervals from a queue in global memory, split long ones and sum short ones.

struct Queue {
    unsigned int head;
    unsigned int tail;
    int pending;
    unsigned int overflow;
};

__device__ __forceinline__ void push(Queue *queue, int2 *items, unsigned int *ready, unsigned int capacity, int2 item) {
    unsigned int slot = atomicAdd(&queue->tail, 1u);
    if (slot >= capacity) {
        atomicExch(&queue->overflow, 1u);
        return;
    }
    atomicAdd(&queue->pending, 1);
    items[slot] = item;
    __threadfence();
    atomicExch(&ready[slot], 1u);
}

extern "C" __global__ void persistent_sum(Queue *queue, int2 *items, unsigned int *ready, unsigned int capacity,
                                          unsigned long long *total) {
    __shared__ int2 item_shared;
    __shared__ bool stop;
    while (true) {
        if (threadIdx.x == 0) {
            unsigned int slot = atomicAdd(&queue->head, 1u);
            stop = false;
            while (true) {
                if (slot < capacity && atomicAdd(&ready[slot], 0u) != 0) {
                    __threadfence();
                    item_shared = items[slot];
                    break;
                }
                if (atomicAdd(&queue->pending, 0) == 0) {
                    stop = true;
                    break;
                }
                __nanosleep(20);
            }
        }
        __syncthreads();
        if (stop) {
            return;
        }
        int2 item = item_shared;
        if (item.y - item.x > (int)blockDim.x) {
            if (threadIdx.x == 0) {
                int middle = item.x + (item.y - item.x) / 2;
                push(queue, items, ready, capacity, make_int2(item.x, middle));
                push(queue, items, ready, capacity, make_int2(middle, item.y));
            }
        } else if (item.x + (int)threadIdx.x < item.y) {
            unsigned long long value = item.x + threadIdx.x;
            atomicAdd(total, value * value);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicSub(&queue->pending, 1);
        }
    }
}
