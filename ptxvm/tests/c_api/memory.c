/* Memory: allocations, copies and fills of every kind, and what is refused. */
#include "check.h"
#include <string.h>

enum { ATTRIBUTE_MEMORY_TYPE = 2, ATTRIBUTE_HOST_POINTER = 4, ATTRIBUTE_IS_MANAGED = 8, ATTRIBUTE_DEVICE = 9 };

static void linear(void) {
    CUdeviceptr a, b, base;
    size_t bytes, before, after, total;
    unsigned char host[64];

    EXPECT(INVALID_VALUE, cuMemAlloc_v2(&a, 0));
    EXPECT(INVALID_VALUE, cuMemAlloc_v2(NULL, 16));
    EXPECT(OUT_OF_MEMORY, cuMemAlloc_v2(&a, (size_t)1 << 45));
    OK(cuMemFree_v2(0));
    EXPECT(INVALID_VALUE, cuMemFree_v2(0x1234));

    OK(cuMemGetInfo_v2(&before, &total));
    OK(cuMemAlloc_v2(&a, (size_t)64 << 20));
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK(before <= total && after + ((size_t)32 << 20) < before);
    CHECK(a % 256 == 0);
    OK(cuMemGetAddressRange_v2(&base, &bytes, a + 12345));
    CHECK(base == a && bytes == (size_t)64 << 20);
    OK(cuMemFree_v2(a));

    a = numbers(1000);
    OK(cuMemAlloc_v2(&b, 4000));
    OK(cuMemcpyDtoD_v2(b, a, 4000));
    check_numbers(b, 1000, 0, 1);
    OK(cuMemcpy(b, a + 400, 3600));
    check_numbers(b, 900, 100, 1);
    OK(cuMemsetD32_v2(b, 7, 1000));
    check_numbers(b, 1000, 7, 0);
    OK(cuMemsetD8_v2(b + 1, 0xab, 2));
    OK(cuMemsetD16_v2(b + 4, 0x1234, 2));
    OK(cuMemcpyDtoH_v2(host, b, 12));
    CHECK(memcmp(host, "\x07\xab\xab\x00\x34\x12\x34\x12\x07\x00\x00\x00", 12) == 0);
    EXPECT(INVALID_VALUE, cuMemsetD32_v2(b + 1, 7, 4));
    EXPECT(INVALID_VALUE, cuMemcpyDtoH_v2(host, 0x1234, 4));
    OK(cuMemcpyDtoH_v2(host, b, 0));

    OK(cuMemFree_v2(b));
    OK(cuMemFree_v2(a));
}

static void rectangles(void) {
    unsigned char host[6][20], back[4][16];
    CUdeviceptr pitched;
    size_t pitch;

    OK(cuMemAllocPitch_v2(&pitched, &pitch, 20, 6, 4));
    CHECK(pitch >= 20 && pitch % 32 == 0);
    for (int y = 0; y < 6; y++) {
        for (int x = 0; x < 20; x++) {
            host[y][x] = (unsigned char)(y * 20 + x);
        }
    }
    CUDA_MEMCPY2D up = {.srcMemoryType = MEMORY_HOST, .srcHost = host, .srcPitch = 20, .dstMemoryType = MEMORY_DEVICE,
                        .dstDevice = pitched, .dstPitch = pitch, .WidthInBytes = 20, .Height = 6};
    OK(cuMemcpy2D_v2(&up));
    CUDA_MEMCPY2D down = {.srcXInBytes = 3, .srcY = 1, .srcMemoryType = MEMORY_DEVICE, .srcDevice = pitched,
                          .srcPitch = pitch, .dstMemoryType = MEMORY_HOST, .dstHost = back, .dstPitch = 16,
                          .WidthInBytes = 16, .Height = 4};
    OK(cuMemcpy2D_v2(&down));
    for (int y = 0; y < 4; y++) {
        CHECK(memcmp(back[y], &host[y + 1][3], 16) == 0);
    }
    down.dstPitch = 15;
    EXPECT(INVALID_VALUE, cuMemcpy2D_v2(&down));
    OK(cuMemFree_v2(pitched));
}

static void of_the_host(void) {
    CUfunction step = kernel("step");
    unsigned *pinned, *managed, n = 100, factor = 2;
    static unsigned own[4096];
    CUdeviceptr device;
    int type, yes, ordinal;
    void *parameters[] = {&device, &n, &factor};
    enum { MAPPED = 2, ATTACH_GLOBAL = 1 };

    OK(cuMemHostAlloc((void **)&pinned, 400, MAPPED));
    OK(cuMemHostGetDevicePointer_v2(&device, pinned, 0));
    CHECK(device == (CUdeviceptr)(uintptr_t)pinned);
    memset(pinned, 0, 400);
    OK(cuLaunchKernel(step, 1, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    OK(cuCtxSynchronize());
    CHECK(pinned[0] == 1 && pinned[99] == 1);
    OK(cuPointerGetAttribute(&type, ATTRIBUTE_MEMORY_TYPE, device));
    CHECK(type == MEMORY_HOST);
    OK(cuMemFreeHost(pinned));
    EXPECT(INVALID_VALUE, cuMemFreeHost(own));

    OK(cuMemAllocManaged(&device, 400, ATTACH_GLOBAL));
    managed = (unsigned *)(uintptr_t)device;
    for (unsigned i = 0; i < n; i++) {
        managed[i] = i;
    }
    OK(cuLaunchKernel(step, 1, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    OK(cuCtxSynchronize());
    for (unsigned i = 0; i < n; i++) {
        CHECK(managed[i] == 2 * i + 1);
    }
    OK(cuPointerGetAttribute(&yes, ATTRIBUTE_IS_MANAGED, device));
    CHECK(yes);
    OK(cuMemFree_v2(device));

    EXPECT(HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(own));
    OK(cuMemHostRegister_v2(own, sizeof own, MAPPED));
    EXPECT(HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister_v2(own, sizeof own, MAPPED));
    OK(cuMemHostGetDevicePointer_v2(&device, own, 0));
    OK(cuLaunchKernel(step, 1, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    OK(cuCtxSynchronize());
    CHECK(own[0] == 1 && own[99] == 1 && own[100] == 0);
    OK(cuMemHostUnregister(own));

    OK(cuMemAlloc_v2(&device, 16));
    OK(cuPointerGetAttribute(&type, ATTRIBUTE_MEMORY_TYPE, device + 8));
    CHECK(type == MEMORY_DEVICE);
    OK(cuPointerGetAttribute(&ordinal, ATTRIBUTE_DEVICE, device));
    CHECK(ordinal == 0);
    OK(cuMemFree_v2(device));
    EXPECT(INVALID_VALUE, cuPointerGetAttribute(&type, ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&type));
}

void memory(void) {
    start();
    linear();
    rectangles();
    of_the_host();
}

/* Two devices: each has memory of its own, and every pointer says whose it is. */
void several(void) {
    CUcontext contexts[2];
    CUdeviceptr pointers[2];
    int count, can, ordinal;

    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    CHECK(count == 2);
    for (int device = 0; device < 2; device++) {
        char name[128];
        OK(cuDeviceGetName(name, sizeof name, device));
        puts(name);
        OK(cuDevicePrimaryCtxRetain(&contexts[device], device));
        OK(cuCtxSetCurrent(contexts[device]));
        pointers[device] = numbers(100);
        OK(cuPointerGetAttribute(&ordinal, ATTRIBUTE_DEVICE, pointers[device]));
        CHECK(ordinal == device);
    }
    CHECK(contexts[0] != contexts[1]);
    OK(cuMemsetD32_v2(pointers[1], 9, 100));
    OK(cuMemcpyPeer(pointers[0], contexts[0], pointers[1], contexts[1], 200));
    OK(cuCtxSetCurrent(contexts[0]));
    check_numbers(pointers[0], 50, 9, 0);
    check_numbers(pointers[0] + 200, 50, 50, 1);

    OK(cuDeviceCanAccessPeer(&can, 0, 1));
    if (can) {
        unsigned n = 100, factor = 1;
        void *parameters[] = {&pointers[1], &n, &factor};
        OK(cuCtxEnablePeerAccess(contexts[1], 0));
        OK(cuLaunchKernel(kernel("step"), 1, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
        OK(cuCtxSynchronize());
        check_numbers(pointers[1], 100, 10, 0);
    }
}
