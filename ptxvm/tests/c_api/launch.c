/* Modules, functions and launches. */
#include "check.h"
#include <string.h>

enum { FUNCTION_MAX_THREADS = 0, FUNCTION_SHARED_BYTES = 1, FUNCTION_REGISTERS = 4, FUNCTION_PTX_VERSION = 5 };
enum { FUNCTION_MAX_DYNAMIC_SHARED = 8 };

static void linked_from_two_texts(void) {
    static char first[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                          ".visible .func (.param .b32 result) twice(.param .b32 x)\n"
                          "{\n.reg .b32 %r<3>;\nld.param.u32 %r0, [x];\nadd.u32 %r1, %r0, %r0;\n"
                          "st.param.b32 [result], %r1;\nret;\n}\n";
    static char second[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                           ".extern .func (.param .b32 result) twice(.param .b32 x);\n"
                           ".visible .entry doubled(.param .u64 p)\n"
                           "{\n.reg .b32 %r<4>;\n.reg .b64 %rd<4>;\nld.param.u64 %rd0, [p];\nmov.u32 %r0, %tid.x;\n"
                           "mul.wide.u32 %rd1, %r0, 4;\nadd.s64 %rd2, %rd0, %rd1;\nld.global.u32 %r1, [%rd2];\n"
                           "{\n.param .b32 x;\n.param .b32 result;\nst.param.b32 [x], %r1;\n"
                           "call.uni (result), twice, (x);\nld.param.b32 %r2, [result];\n}\n"
                           "st.global.u32 [%rd2], %r2;\nret;\n}\n";
    enum { PTX = 1 };
    CUlinkState state;
    CUmodule module;
    CUfunction function;
    void *image;
    size_t bytes;
    CUdeviceptr p = numbers(32);
    void *parameters[] = {&p};

    OK(cuLinkCreate_v2(0, NULL, NULL, &state));
    OK(cuLinkAddData_v2(state, PTX, second, sizeof second, "second", 0, NULL, NULL));
    OK(cuLinkAddData_v2(state, PTX, first, sizeof first, "first", 0, NULL, NULL));
    OK(cuLinkComplete(state, &image, &bytes));
    CHECK(image && bytes > 0);
    OK(cuModuleLoadData(&module, image));
    /* The image is the link state's. */
    OK(cuLinkDestroy(state));
    OK(cuModuleGetFunction(&function, module, "doubled"));
    OK(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, NULL));
    check_numbers(p, 32, 0, 2);
    OK(cuMemFree_v2(p));
}

void modules(void) {
    CUmodule module, again;
    CUfunction function;
    CUdeviceptr global, one, other, out;
    size_t bytes;
    unsigned scale, table[4];
    int value;
    char log[2000] = "";
    enum { ERROR_LOG = 5, ERROR_LOG_BYTES = 6 };
    int options[] = {ERROR_LOG, ERROR_LOG_BYTES};
    void *values[] = {log, (void *)sizeof log};
    static const char unknown[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
                                  ".visible .entry k()\n{\nfrobnicate.u32 %r1, %r2;\nret;\n}\n";

    start();
    EXPECT(INVALID_VALUE, cuModuleLoadData(&module, NULL));
    EXPECT(INVALID_PTX, cuModuleLoadData(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible ("));
    EXPECT(INVALID_PTX, cuModuleLoadDataEx(&module, unknown, 2, options, values));
    CHECK(strstr(log, "frobnicate") != NULL);

    OK(cuModuleLoadData(&module, kernels));
    EXPECT(NOT_FOUND, cuModuleGetFunction(&function, module, "no_such_kernel"));
    EXPECT(NOT_FOUND, cuModuleGetGlobal_v2(&global, &bytes, module, "no_such_global"));
    EXPECT(INVALID_VALUE, cuModuleGetFunction(&function, module, NULL));

    OK(cuModuleGetGlobal_v2(&global, &bytes, module, "scale"));
    CHECK(bytes == 4);
    OK(cuMemcpyDtoH_v2(&scale, global, 4));
    CHECK(scale == 10);
    scale = 100;
    OK(cuMemcpyHtoD_v2(global, &scale, 4));
    one = global;
    OK(cuModuleGetGlobal_v2(&global, &bytes, module, "table"));
    CHECK(bytes == 16);
    OK(cuMemcpyDtoH_v2(table, global, 16));
    CHECK(table[0] == 2 && table[3] == 7);
    table[1] = 30;
    OK(cuMemcpyHtoD_v2(global, table, 16));

    out = numbers(8);
    void *parameters[] = {&out};
    OK(cuModuleGetFunction(&function, module, "scaled"));
    OK(cuLaunchKernel(function, 1, 1, 1, 8, 1, 1, 0, NULL, parameters, NULL));
    unsigned found[8], wanted[8] = {200, 3000, 500, 700, 200, 3000, 500, 700};
    OK(cuMemcpyDtoH_v2(found, out, sizeof found));
    CHECK(memcmp(found, wanted, sizeof wanted) == 0);
    OK(cuMemFree_v2(out));

    /* The same text loaded again has globals of its own. */
    OK(cuModuleLoadData(&again, kernels));
    OK(cuModuleGetGlobal_v2(&other, NULL, again, "scale"));
    CHECK(other != one);
    OK(cuMemcpyDtoH_v2(&scale, other, 4));
    CHECK(scale == 10);
    OK(cuModuleUnload(again));

    OK(cuModuleGetFunction(&function, module, "small"));
    OK(cuFuncGetAttribute(&value, FUNCTION_MAX_THREADS, function));
    CHECK(value == 64);
    OK(cuFuncGetAttribute(&value, FUNCTION_SHARED_BYTES, function));
    CHECK(value == 256);
    OK(cuFuncGetAttribute(&value, FUNCTION_REGISTERS, function));
    CHECK(value > 0 && value < 256);
    OK(cuFuncGetAttribute(&value, FUNCTION_PTX_VERSION, function));
    CHECK(value == 75);
    EXPECT(INVALID_VALUE, cuFuncGetAttribute(&value, 1000, function));
    OK(cuModuleUnload(module));

    linked_from_two_texts();
}

static void shapes_and_parameters(void) {
    CUfunction axpy = kernel("axpy");
    enum { COUNT = 1000 };
    float x[COUNT], y[COUNT], a = 3;
    unsigned n = COUNT;
    CUdeviceptr dx, dy;
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)i;
        y[i] = 0.5f;
    }
    OK(cuMemAlloc_v2(&dx, sizeof x));
    OK(cuMemAlloc_v2(&dy, sizeof y));
    OK(cuMemcpyHtoD_v2(dx, x, sizeof x));
    OK(cuMemcpyHtoD_v2(dy, y, sizeof y));

    void *parameters[] = {&a, &dx, &dy, &n};
    OK(cuLaunchKernel(axpy, 8, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    /* The same parameters, packed into a buffer as they lie in parameter memory. */
    struct {
        float a;
        CUdeviceptr x, y;
        unsigned n;
    } packed = {a, dx, dy, n};
    size_t bytes = 28;
    void *extra[] = {(void *)1, &packed, (void *)2, &bytes, NULL};
    OK(cuLaunchKernel(axpy, 8, 1, 1, 128, 1, 1, 0, NULL, NULL, extra));
    CUlaunchConfig shape = {8, 1, 1, 128, 1, 1, 0, NULL, NULL, 0};
    OK(cuLaunchKernelEx(&shape, axpy, parameters, NULL));
    /* Parameters are taken when the kernel is launched, not when it runs. */
    a = 1000;
    OK(cuMemcpyDtoH_v2(y, dy, sizeof y));
    for (int i = 0; i < COUNT; i++) {
        CHECK(y[i] == 9.0f * (float)i + 0.5f);
    }

    EXPECT(INVALID_VALUE, cuLaunchKernel(axpy, 0, 1, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    EXPECT(INVALID_VALUE, cuLaunchKernel(axpy, 1, 70000, 1, 128, 1, 1, 0, NULL, parameters, NULL));
    EXPECT(INVALID_VALUE, cuLaunchKernel(axpy, 1, 1, 1, 1025, 1, 1, 0, NULL, parameters, NULL));
    EXPECT(INVALID_VALUE, cuLaunchKernel(axpy, 1, 1, 1, 1, 1, 65, 0, NULL, parameters, NULL));
    EXPECT(INVALID_HANDLE, cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    /* None of these is sticky. */
    OK(cuCtxSynchronize());
    OK(cuMemFree_v2(dx));
    OK(cuMemFree_v2(dy));
}

static void shared_memory(void) {
    CUfunction reverse = kernel("reverse");
    CUdeviceptr p = numbers(1024);
    void *parameters[] = {&p};
    OK(cuLaunchKernel(reverse, 1, 1, 1, 1024, 1, 1, 4096, NULL, parameters, NULL));
    check_numbers(p, 1024, 1023, (unsigned)-1);
    /* More than 48 KiB must be asked for. */
    EXPECT(INVALID_VALUE, cuLaunchKernel(reverse, 1, 1, 1, 1024, 1, 1, 60000, NULL, parameters, NULL));
    OK(cuFuncSetAttribute(reverse, FUNCTION_MAX_DYNAMIC_SHARED, 60000));
    OK(cuLaunchKernel(reverse, 1, 1, 1, 1024, 1, 1, 60000, NULL, parameters, NULL));
    check_numbers(p, 1024, 0, 1);
    EXPECT(INVALID_VALUE, cuFuncSetAttribute(reverse, FUNCTION_MAX_DYNAMIC_SHARED, 1 << 20));
    OK(cuMemFree_v2(p));
}

static void cooperative(void) {
    CUfunction meet = kernel("meet");
    CUdeviceptr counter, out = numbers(16);
    CUdevice device;
    int per_multiprocessor, multiprocessors;
    void *parameters[] = {&counter, &out};
    OK(cuMemAlloc_v2(&counter, 4));
    OK(cuMemsetD32_v2(counter, 0, 1));
    OK(cuLaunchCooperativeKernel(meet, 16, 1, 1, 32, 1, 1, 0, NULL, parameters));
    check_numbers(out, 16, 16, 0);

    CUlaunchAttribute attribute = {.id = 2 /* cooperative */, .value = {.cooperative = 1}};
    CUlaunchConfig shape = {12, 1, 1, 32, 1, 1, 0, NULL, &attribute, 1};
    OK(cuMemsetD32_v2(counter, 0, 1));
    OK(cuLaunchKernelEx(&shape, meet, parameters, NULL));
    check_numbers(out, 12, 12, 0);

    OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, meet, 1024, 0));
    CHECK(per_multiprocessor >= 1 && per_multiprocessor <= 2);
    OK(cuCtxGetDevice(&device));
    OK(cuDeviceGetAttribute(&multiprocessors, 16, device));
    unsigned too_many = (unsigned)(per_multiprocessor * multiprocessors) + 1;
    EXPECT(COOPERATIVE_LAUNCH_TOO_LARGE,
           cuLaunchCooperativeKernel(meet, too_many, 1, 1, 1024, 1, 1, 0, NULL, parameters));
    OK(cuCtxSynchronize());
    OK(cuMemFree_v2(counter));
    OK(cuMemFree_v2(out));
}

void launches(void) {
    start();
    shapes_and_parameters();
    shared_memory();
    cooperative();
}

/* What a kernel prints is on standard output when the host has waited for it. */
void say(void) {
    unsigned what = 42;
    void *parameters[] = {&what};
    start();
    OK(cuLaunchKernel(kernel("say"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    OK(cuCtxSynchronize());
    puts("waited");
}
