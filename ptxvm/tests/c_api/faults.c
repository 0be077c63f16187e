/* What a kernel does wrong stays: from then on every call of the process's CUDA returns the same error. */
#include "check.h"
#include <string.h>

void fault(const char *kind) {
    CUdeviceptr p, q;
    CUevent event;
    CUresult wanted;
    void *parameters[] = {&p};
    unsigned host;

    start();
    CUfunction poke = kernel("poke"), stop = kernel("stop");
    p = numbers(16);
    OK(cuEventCreate(&event, 0));
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    OK(cuCtxSynchronize());

    if (strcmp(kind, "nowhere") == 0) {
        p = 0x10;
        wanted = ILLEGAL_ADDRESS;
    } else if (strcmp(kind, "misaligned") == 0) {
        p += 2;
        wanted = MISALIGNED_ADDRESS;
    } else if (strcmp(kind, "freed") == 0) {
        CUdeviceptr large;
        OK(cuMemAlloc_v2(&large, 64 << 20));
        OK(cuMemFree_v2(large));
        p = large + (32 << 20);
        wanted = ILLEGAL_ADDRESS;
    } else {
        CHECK(strcmp(kind, "trap") == 0);
        poke = stop;
        wanted = LAUNCH_FAILED;
    }
    /* The launch itself is in order; whoever waits for it learns of the fault. */
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    EXPECT(wanted, cuStreamSynchronize(NULL));
    EXPECT(wanted, cuCtxSynchronize());
    EXPECT(wanted, cuStreamQuery(NULL));
    EXPECT(wanted, cuMemAlloc_v2(&q, 16));
    EXPECT(wanted, cuMemcpyDtoH_v2(&host, p, 4));
    EXPECT(wanted, cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    EXPECT(wanted, cuEventRecord(event, NULL));
    /* What asks nothing of the device still answers. */
    int count;
    OK(cuDeviceGetCount(&count));
}
