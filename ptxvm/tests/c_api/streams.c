/* Streams and events: what waits for what, and what may be asked of them. */
#include "check.h"
#include <string.h>
#include <unistd.h>

enum { NON_BLOCKING = 1, DISABLE_TIMING = 2, COUNT = 5000 };

static void launch_step(CUfunction step, CUdeviceptr p, unsigned factor, CUstream stream) {
    unsigned n = COUNT;
    void *parameters[] = {&p, &n, &factor};
    OK(cuLaunchKernel(step, (COUNT + 255) / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
}

static void rest(void *milliseconds) {
    usleep((useconds_t)(uintptr_t)milliseconds * 1000);
}

static void called_back(CUstream stream, CUresult status, void *data) {
    *(int *)data = stream != NULL && status == SUCCESS;
}

void streams(void) {
    CUstream stream, urgent;
    CUevent start_event, end_event, untimed, fresh;
    CUfunction step;
    CUdeviceptr p;
    unsigned flags;
    int least, greatest, priority, called = 0;
    float milliseconds;
    gate gate = {0};

    start();
    step = kernel("step");
    p = numbers(COUNT);
    OK(cuStreamCreate(&stream, NON_BLOCKING));
    OK(cuStreamGetFlags(stream, &flags));
    CHECK(flags == NON_BLOCKING);
    EXPECT(INVALID_VALUE, cuStreamCreate(&urgent, 0x4000));
    OK(cuCtxGetStreamPriorityRange(&least, &greatest));
    CHECK(least == 0 && greatest <= least);
    OK(cuStreamCreateWithPriority(&urgent, NON_BLOCKING, greatest - 100));
    OK(cuStreamGetPriority(urgent, &priority));
    CHECK(priority == greatest);
    OK(cuStreamQuery(stream));
    OK(cuStreamQuery(NULL));

    OK(cuEventCreate(&start_event, 0));
    OK(cuEventCreate(&end_event, 0));
    OK(cuEventCreate(&untimed, DISABLE_TIMING));
    OK(cuEventCreate(&fresh, 0));
    OK(cuEventQuery(fresh));
    OK(cuEventSynchronize(fresh));
    EXPECT(INVALID_HANDLE, cuEventElapsedTime(&milliseconds, fresh, fresh));

    OK(cuEventRecord(start_event, stream));
    OK(cuLaunchHostFunc(stream, wait_at_gate, &gate));
    OK(cuLaunchHostFunc(stream, rest, (void *)20));
    OK(cuEventRecord(end_event, stream));
    OK(cuEventRecord(untimed, stream));
    OK(cuStreamAddCallback(stream, called_back, &called, 0));
    EXPECT(NOT_READY, cuStreamQuery(stream));
    EXPECT(NOT_READY, cuEventQuery(end_event));
    EXPECT(NOT_READY, cuEventElapsedTime(&milliseconds, start_event, end_event));
    CHECK(!called);
    /* A stream that does not block goes on meanwhile. */
    launch_step(step, p, 1, urgent);
    OK(cuStreamSynchronize(urgent));
    open_gate(&gate);
    OK(cuEventSynchronize(end_event));
    OK(cuStreamSynchronize(stream));
    CHECK(called);
    OK(cuEventElapsedTime(&milliseconds, start_event, end_event));
    CHECK(milliseconds >= 19 && milliseconds < 10000);
    EXPECT(INVALID_HANDLE, cuEventElapsedTime(&milliseconds, start_event, untimed));

    /* The handles that stand for the two default streams. */
    launch_step(step, p, 1, (CUstream)1);
    OK(cuStreamSynchronize((CUstream)1));
    launch_step(step, p, 1, (CUstream)2);
    OK(cuStreamSynchronize((CUstream)2));
    check_numbers(p, COUNT, 3, 1);

    /* A stream that is destroyed finishes what it was given. */
    gate.open = 0;
    OK(cuLaunchHostFunc(urgent, wait_at_gate, &gate));
    launch_step(step, p, 2, urgent);
    OK(cuStreamDestroy_v2(urgent));
    open_gate(&gate);
    OK(cuCtxSynchronize());
    check_numbers(p, COUNT, 7, 2);

    OK(cuEventDestroy_v2(start_event));
    OK(cuEventDestroy_v2(end_event));
    OK(cuEventDestroy_v2(untimed));
    OK(cuEventDestroy_v2(fresh));
    OK(cuStreamDestroy_v2(stream));
    OK(cuMemFree_v2(p));
}

void order(void) {
    CUstream first, second, blocking;
    CUevent event;
    CUfunction step;
    CUdeviceptr p;
    unsigned *pinned;
    gate gate = {0};

    start();
    step = kernel("step");
    OK(cuStreamCreate(&first, NON_BLOCKING));
    OK(cuStreamCreate(&second, NON_BLOCKING));
    OK(cuStreamCreate(&blocking, 0));
    OK(cuEventCreate(&event, DISABLE_TIMING));
    OK(cuMemHostAlloc((void **)&pinned, COUNT * sizeof *pinned, 0));

    /* Another stream waits for the event as it was when it was told to wait. */
    p = numbers(COUNT);
    OK(cuLaunchHostFunc(first, wait_at_gate, &gate));
    launch_step(step, p, 3, first);
    OK(cuEventRecord(event, first));
    OK(cuStreamWaitEvent(second, event, 0));
    launch_step(step, p, 5, second);
    OK(cuMemcpyDtoHAsync_v2(pinned, p, COUNT * sizeof *pinned, second));
    EXPECT(NOT_READY, cuStreamQuery(second));
    OK(cuEventRecord(event, blocking));
    OK(cuStreamSynchronize(blocking));
    EXPECT(NOT_READY, cuStreamQuery(second));
    open_gate(&gate);
    OK(cuStreamSynchronize(second));
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK(pinned[i] == (3 * i + 1) * 5 + 1);
    }

    /* An event that was never recorded holds nobody up. */
    CUevent never;
    OK(cuEventCreate(&never, DISABLE_TIMING));
    OK(cuStreamWaitEvent(second, never, 0));
    OK(cuStreamSynchronize(second));

    /* The legacy default stream waits for blocking streams, and they for it. */
    OK(cuMemsetD32_v2(p, 1, COUNT));
    OK(cuLaunchHostFunc(blocking, rest, (void *)20));
    launch_step(step, p, 2, blocking);
    launch_step(step, p, 10, NULL);
    launch_step(step, p, 3, blocking);
    OK(cuStreamSynchronize(blocking));
    check_numbers(p, COUNT, 94, 0);

    /* A copy to pageable memory has happened when the call returns. */
    unsigned own[16];
    OK(cuLaunchHostFunc(first, rest, (void *)20));
    OK(cuMemsetD32Async(p, 77, COUNT, first));
    OK(cuMemcpyDtoHAsync_v2(own, p, sizeof own, first));
    CHECK(own[0] == 77 && own[15] == 77);

    /* Pageable memory may be changed as soon as a copy from it was asked for. */
    own[0] = 5;
    OK(cuMemcpyHtoDAsync_v2(p, own, 4, first));
    own[0] = 6;
    OK(cuStreamSynchronize(first));
    check_numbers(p, 1, 5, 0);

    OK(cuMemFreeHost(pinned));
    OK(cuMemFree_v2(p));
}
