/* Graphs, captured and made by hand, and pools of memory in the order of a stream. */
#include "check.h"

enum { NON_BLOCKING = 1, CAPTURE_GLOBAL = 0, COUNT = 1000 };

static void count_call(void *data) {
    ++*(int *)data;
}

static CUgraphExec executable_of(CUgraph graph) {
    CUgraphExec executable;
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    return executable;
}

static void captured(CUfunction step, CUstream stream) {
    CUdeviceptr p = numbers(COUNT);
    unsigned n = COUNT, factor = 2;
    void *parameters[] = {&p, &n, &factor};
    CUgraph graph;
    CUgraphExec executable;
    CUstream side;
    CUevent fork, join;
    CUdeviceptr q = numbers(COUNT);
    void *beside[] = {&q, &n, &factor};
    size_t nodes;
    int capturing;

    OK(cuStreamCreate(&side, NON_BLOCKING));
    OK(cuEventCreate(&fork, 2));
    OK(cuEventCreate(&join, 2));
    OK(cuStreamBeginCapture_v2(stream, CAPTURE_GLOBAL));
    OK(cuStreamIsCapturing(stream, &capturing));
    CHECK(capturing == 1);
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    /* A second stream joins the capture through an event. */
    OK(cuEventRecord(fork, stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, side, beside, NULL));
    OK(cuEventRecord(join, side));
    OK(cuStreamWaitEvent(stream, join, 0));
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuStreamIsCapturing(stream, &capturing));
    CHECK(capturing == 0);
    OK(cuGraphGetNodes(graph, NULL, &nodes));
    CHECK(nodes == 3);
    /* Nothing of it has run. */
    check_numbers(p, COUNT, 0, 1);

    executable = executable_of(graph);
    for (int i = 0; i < 3; i++) {
        OK(cuGraphLaunch(executable, stream));
    }
    OK(cuStreamSynchronize(stream));
    check_numbers(p, COUNT, 63, 64);
    check_numbers(q, COUNT, 7, 8);

    /* The same shape with another parameter replaces what is launched. */
    CUgraph other;
    CUgraphExecUpdateResultInfo result;
    factor = 1;
    OK(cuStreamBeginCapture_v2(stream, CAPTURE_GLOBAL));
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    OK(cuEventRecord(fork, stream));
    OK(cuStreamWaitEvent(side, fork, 0));
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, side, beside, NULL));
    OK(cuEventRecord(join, side));
    OK(cuStreamWaitEvent(stream, join, 0));
    OK(cuLaunchKernel(step, 4, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    OK(cuStreamEndCapture(stream, &other));
    OK(cuGraphExecUpdate_v2(executable, other, &result));
    CHECK(result.result == 0);
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    check_numbers(p, COUNT, 65, 64);
    check_numbers(q, COUNT, 8, 8);

    /* To wait for a stream while it is captured spoils the capture. */
    OK(cuStreamBeginCapture_v2(stream, CAPTURE_GLOBAL));
    EXPECT(STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(stream));
    EXPECT(STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(stream, &graph));
    OK(cuStreamSynchronize(stream));

    OK(cuGraphExecDestroy(executable));
    OK(cuMemFree_v2(p));
    OK(cuMemFree_v2(q));
}

static void by_hand(CUfunction step, CUcontext context, CUstream stream) {
    CUgraph graph;
    CUgraphExec executable;
    CUgraphNode fill, run, copy, call;
    CUdeviceptr p;
    unsigned n = COUNT, factor = 4, host[COUNT];
    int calls = 0;
    void *parameters[] = {&p, &n, &factor};

    OK(cuMemAlloc_v2(&p, sizeof host));
    OK(cuGraphCreate(&graph, 0));
    CUDA_MEMSET_NODE_PARAMS filled = {p, 0, 3, 4, COUNT, 1};
    OK(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &filled, context));
    CUDA_KERNEL_NODE_PARAMS launched = {step, 4, 1, 1, 256, 1, 1, 0, parameters, NULL, NULL, NULL};
    OK(cuGraphAddKernelNode_v2(&run, graph, &fill, 1, &launched));
    CUDA_MEMCPY3D copied = {.srcMemoryType = MEMORY_DEVICE, .srcDevice = p, .srcPitch = sizeof host,
                            .srcHeight = 1, .dstMemoryType = MEMORY_HOST, .dstHost = host, .dstPitch = sizeof host,
                            .dstHeight = 1, .WidthInBytes = sizeof host, .Height = 1, .Depth = 1};
    OK(cuGraphAddMemcpyNode(&copy, graph, &run, 1, &copied, context));
    CUDA_HOST_NODE_PARAMS called = {count_call, &calls};
    OK(cuGraphAddHostNode(&call, graph, &copy, 1, &called));

    executable = executable_of(graph);
    /* The executable graph has taken the parameters over. */
    factor = 1000;
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(host[0] == 13 && host[COUNT - 1] == 13 && calls == 1);

    factor = 5;
    OK(cuGraphExecKernelNodeSetParams_v2(executable, run, &launched));
    OK(cuGraphLaunch(executable, stream));
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    CHECK(host[0] == 16 && host[COUNT - 1] == 16 && calls == 3);

    OK(cuGraphExecDestroy(executable));
    OK(cuGraphDestroy(graph));
    OK(cuMemFree_v2(p));
}

void graphs(void) {
    CUcontext context = start();
    CUfunction step = kernel("step");
    CUstream stream;
    OK(cuStreamCreate(&stream, NON_BLOCKING));
    captured(step, stream);
    by_hand(step, context, stream);
    OK(cuStreamDestroy_v2(stream));
}

void pools(void) {
    enum { RELEASE_THRESHOLD = 4, RESERVED = 5, USED = 7 };
    CUmemoryPool standard, own;
    CUstream stream;
    CUdeviceptr p, q;
    uint64_t before, used, reserved, threshold = ~0ull;
    CUmemPoolProps properties = {.allocType = 1 /* pinned */, .location = {1 /* device */, 0}};
    gate gate = {0};

    start();
    OK(cuStreamCreate(&stream, NON_BLOCKING));
    OK(cuDeviceGetDefaultMemPool(&standard, 0));
    OK(cuMemPoolGetAttribute(standard, USED, &before));
    OK(cuMemAllocAsync(&p, 1 << 20, stream));
    OK(cuMemPoolGetAttribute(standard, USED, &used));
    CHECK(used >= before + (1 << 20));
    OK(cuMemsetD32Async(p, 5, 1 << 18, stream));
    OK(cuStreamSynchronize(stream));
    check_numbers(p, 1 << 18, 5, 0);

    /* Memory is there until the stream has come to where it is freed. */
    unsigned factor = 2, n = 1 << 18;
    void *parameters[] = {&p, &n, &factor};
    CUdeviceptr kept = numbers(16);
    CUfunction step = kernel("step");
    unsigned *pinned;
    OK(cuMemHostAlloc((void **)&pinned, 64, 0));
    OK(cuLaunchHostFunc(stream, wait_at_gate, &gate));
    OK(cuLaunchKernel(step, 1 << 10, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    OK(cuMemcpyDtoHAsync_v2(pinned, p, 64, stream));
    OK(cuMemFreeAsync(p, stream));
    open_gate(&gate);
    OK(cuStreamSynchronize(stream));
    CHECK(pinned[0] == 11 && pinned[15] == 11);
    OK(cuMemPoolGetAttribute(standard, USED, &used));
    CHECK(used == before);
    check_numbers(kept, 16, 0, 1);

    OK(cuMemPoolCreate(&own, &properties));
    OK(cuMemPoolSetAttribute(own, RELEASE_THRESHOLD, &threshold));
    OK(cuMemAllocFromPoolAsync(&p, 1 << 20, own, stream));
    OK(cuMemAllocFromPoolAsync(&q, 1 << 20, own, stream));
    OK(cuMemFreeAsync(p, stream));
    OK(cuMemFreeAsync(q, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuMemPoolGetAttribute(own, USED, &used));
    CHECK(used == 0);
    OK(cuMemPoolTrimTo(own, 0));
    OK(cuMemPoolGetAttribute(own, RESERVED, &reserved));
    CHECK(reserved == 0);
    OK(cuMemPoolDestroy(own));
    EXPECT(INVALID_VALUE, cuMemAllocAsync(&p, 0, stream));
    OK(cuMemFree_v2(kept));
    OK(cuMemFreeHost(pinned));
}
