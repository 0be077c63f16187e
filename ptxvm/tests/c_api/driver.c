/* Drives the CUDA driver API as a C program does: `driver <kernels.ptx> <subject> [<kind>]`. Prints "ok" and ends with 0
   if everything is as CUDA's manual says. Linked with -lcuda: nothing in it is about ptxvm. */
#include "check.h"
#include <pthread.h>
#include <string.h>
#include <unistd.h>

const char *kernels;

/* Initialises CUDA and makes the first device's primary context current. */
CUcontext start(void) {
    CUdevice device;
    CUcontext context;
    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    return context;
}

CUfunction kernel(const char *name) {
    CUmodule module;
    CUfunction function;
    OK(cuModuleLoadData(&module, kernels));
    OK(cuModuleGetFunction(&function, module, name));
    return function;
}

/* Device memory with 0, 1, 2 and so on. */
CUdeviceptr numbers(unsigned count) {
    unsigned *host = malloc(count * sizeof *host);
    CUdeviceptr device;
    for (unsigned i = 0; i < count; i++) {
        host[i] = i;
    }
    OK(cuMemAlloc_v2(&device, count * sizeof *host));
    OK(cuMemcpyHtoD_v2(device, host, count * sizeof *host));
    free(host);
    return device;
}

/* Number i at `at` must be from + by i. */
void check_numbers(CUdeviceptr at, unsigned count, unsigned from, unsigned by) {
    unsigned *host = malloc(count * sizeof *host);
    OK(cuMemcpyDtoH_v2(host, at, count * sizeof *host));
    for (unsigned i = 0; i < count; i++) {
        if (host[i] != from + by * i) {
            fprintf(stderr, "number %u is %u, expected %u\n", i, host[i], from + by * i);
            exit(1);
        }
    }
    free(host);
}

void wait_at_gate(void *data) {
    while (!__atomic_load_n(&((gate *)data)->open, __ATOMIC_ACQUIRE)) {
        usleep(100);
    }
}

void open_gate(gate *gate) {
    __atomic_store_n(&gate->open, 1, __ATOMIC_RELEASE);
}

void devices(void) {
    int count = -1, value, version;
    CUdevice device, same;
    char name[128], bus[32];
    CUuuid uuid, none = {{0}};
    size_t bytes;
    const char *text;

    /* Names of errors are there before anything else. */
    OK(cuGetErrorName(ILLEGAL_ADDRESS, &text));
    CHECK(strcmp(text, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
    OK(cuGetErrorName(SUCCESS, &text));
    CHECK(strcmp(text, "CUDA_SUCCESS") == 0);
    OK(cuGetErrorString(OUT_OF_MEMORY, &text));
    CHECK(strcmp(text, "out of memory") == 0);
    EXPECT(INVALID_VALUE, cuGetErrorName(123456, &text));
    CHECK(text == NULL);

    OK(cuDriverGetVersion(&version));
    CHECK(version >= 12000);
    EXPECT(NOT_INITIALIZED, cuDeviceGetCount(&count));
    EXPECT(INVALID_VALUE, cuInit(1));
    OK(cuInit(0));
    OK(cuInit(0));
    OK(cuDeviceGetCount(&count));
    CHECK(count >= 1);
    EXPECT(INVALID_VALUE, cuDeviceGetCount(NULL));
    EXPECT(INVALID_DEVICE, cuDeviceGet(&device, count));
    EXPECT(INVALID_DEVICE, cuDeviceGet(&device, -1));
    OK(cuDeviceGet(&device, 0));

    OK(cuDeviceGetName(name, sizeof name, device));
    OK(cuDeviceGetUuid_v2(&uuid, device));
    CHECK(memcmp(&uuid, &none, sizeof uuid) != 0);
    OK(cuDeviceGetPCIBusId(bus, sizeof bus, device));
    OK(cuDeviceGetByPCIBusId(&same, bus));
    CHECK(same == device);
    OK(cuDeviceTotalMem_v2(&bytes, device));
    CHECK(bytes >= (size_t)1 << 30);

    /* The same on every device of today. */
    const int known[][2] = {{1, 1024}, {2, 1024}, {4, 64}, {5, 2147483647}, {7, 65535}, {8, 49152}, {9, 65536},
                            {10, 32}, {41, 1}, {83, 1}, {95, 1}, {115, 1}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        OK(cuDeviceGetAttribute(&value, known[i][0], device));
        if (value != known[i][1]) {
            fprintf(stderr, "attribute %d is %d, expected %d\n", known[i][0], value, known[i][1]);
            exit(1);
        }
    }
    EXPECT(INVALID_VALUE, cuDeviceGetAttribute(&value, 100000, device));
    EXPECT(INVALID_DEVICE, cuDeviceGetAttribute(&value, 10, count));

    int major, minor, multiprocessors, shared;
    OK(cuDeviceGetAttribute(&major, 75, device));
    OK(cuDeviceGetAttribute(&minor, 76, device));
    OK(cuDeviceGetAttribute(&multiprocessors, 16, device));
    OK(cuDeviceGetAttribute(&shared, 97, device));
    printf("%s: %d.%d, %d multiprocessors, %d bytes of shared memory\n", name, major, minor, multiprocessors, shared);
}

static void *without_context(void *context) {
    CUcontext current = context;
    CUdeviceptr pointer;
    OK(cuCtxGetCurrent(&current));
    CHECK(current == NULL);
    EXPECT(INVALID_CONTEXT, cuMemAlloc_v2(&pointer, 16));
    OK(cuCtxSetCurrent(context));
    OK(cuMemAlloc_v2(&pointer, 16));
    OK(cuMemFree_v2(pointer));
    return NULL;
}

void contexts(void) {
    CUdevice device, same;
    CUcontext primary, again, other, current;
    CUdeviceptr pointer;
    unsigned flags;
    int active;
    pthread_t thread;

    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuCtxGetCurrent(&current));
    CHECK(current == NULL);
    EXPECT(INVALID_CONTEXT, cuMemAlloc_v2(&pointer, 16));
    EXPECT(INVALID_CONTEXT, cuCtxSynchronize());
    EXPECT(INVALID_CONTEXT, cuCtxGetDevice(&same));
    EXPECT(INVALID_CONTEXT, cuCtxPopCurrent_v2(&current));
    OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    CHECK(!active);

    OK(cuDevicePrimaryCtxRetain(&primary, device));
    OK(cuDevicePrimaryCtxRetain(&again, device));
    CHECK(primary == again);
    OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    CHECK(active);
    OK(cuCtxGetCurrent(&current));
    CHECK(current == NULL);
    OK(cuCtxPushCurrent_v2(primary));
    OK(cuCtxGetDevice(&same));
    CHECK(same == device);

    /* A context that is made becomes current, and one that is destroyed leaves the stack. */
    OK(cuCtxCreate_v2(&other, 0, device));
    CHECK(other != primary);
    OK(cuCtxGetCurrent(&current));
    CHECK(current == other);
    OK(cuMemAlloc_v2(&pointer, 16));
    OK(cuCtxDestroy_v2(other));
    OK(cuCtxGetCurrent(&current));
    CHECK(current == primary);
    OK(cuCtxSynchronize());

    /* Each thread has a stack of its own. */
    CHECK(pthread_create(&thread, NULL, without_context, primary) == 0);
    CHECK(pthread_join(thread, NULL) == 0);

    OK(cuCtxPopCurrent_v2(&current));
    CHECK(current == primary);
    OK(cuDevicePrimaryCtxRelease_v2(device));
    OK(cuDevicePrimaryCtxRelease_v2(device));
    OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    CHECK(!active);
    EXPECT(INVALID_CONTEXT, cuDevicePrimaryCtxRelease_v2(device));
}

void procs(void) {
    enum { FOUND = 0, NO_SUCH_SYMBOL = 1, VERSION_TOO_LOW = 2 };
    CUresult (*allocate)(CUdeviceptr *, size_t);
    CUresult (*initialise)(unsigned);
    void *function;
    CUdeviceptr pointer;
    int status = -1;

    OK(cuGetProcAddress_v2("cuInit", (void **)&initialise, 12000, 0, &status));
    CHECK(status == FOUND);
    OK(initialise(0));
    start();
    /* A name without its version stands for the newest that the given CUDA knows. */
    OK(cuGetProcAddress_v2("cuMemAlloc", (void **)&allocate, 12000, 0, &status));
    CHECK(status == FOUND);
    OK(allocate(&pointer, 1000));
    OK(cuMemFree_v2(pointer));

    function = &function;
    OK(cuGetProcAddress_v2("cuNoSuchThing", &function, 12000, 0, &status));
    CHECK(function == NULL && status == NO_SUCH_SYMBOL);
    function = &function;
    OK(cuGetProcAddress_v2("cuMemAllocAsync", &function, 10000, 0, &status));
    CHECK(function == NULL && status == VERSION_TOO_LOW);
    OK(cuGetProcAddress_v2("cuMemAllocAsync", &function, 11020, 0, NULL));
    CHECK(function != NULL);
    EXPECT(INVALID_VALUE, cuGetProcAddress_v2(NULL, &function, 12000, 0, &status));
    EXPECT(INVALID_VALUE, cuGetProcAddress_v2("cuInit", NULL, 12000, 0, &status));
}

static const char *text_of(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t size = file ? (fseek(file, 0, SEEK_END), (size_t)ftell(file)) : 0;
    char *text = calloc(size + 1, 1);
    if (file) {
        rewind(file);
        CHECK(fread(text, 1, size, file) == size);
        fclose(file);
    }
    CHECK(size > 0);
    return text;
}

static CUdeviceptr kept;

/* Runs when values of the thread have been destroyed already, and the driver has not ended yet. */
static void leave(void) {
    CUcontext now = NULL;
    unsigned word = 0;
    if (cuCtxGetCurrent(&now) != SUCCESS || now == NULL || cuMemcpyDtoH_v2(&word, kept + 4, 4) != SUCCESS || word != 1 ||
        cuMemFree_v2(kept) != SUCCESS || cuDevicePrimaryCtxRelease_v2(0) != SUCCESS) {
        fprintf(stderr, "a call while the program ends has failed\n");
        _exit(1);
    }
}

/* Objects of C++ and modules of Python give back what they hold when the program ends. */
void leaving(void) {
    start();
    kept = numbers(4);
    CHECK(atexit(leave) == 0);
}

int main(int count, char **arguments) {
    const struct {
        const char *name;
        void (*run)(void);
    } subjects[] = {{"devices", devices}, {"contexts", contexts}, {"procs", procs},     {"memory", memory},
                    {"modules", modules}, {"launches", launches}, {"say", say},         {"streams", streams},
                    {"order", order},     {"graphs", graphs},     {"pools", pools},     {"several", several}, {"leaving", leaving}};
    if (count >= 3) {
        kernels = text_of(arguments[1]);
        if (count == 4 && strcmp(arguments[2], "fault") == 0) {
            fault(arguments[3]);
            puts("ok");
            return 0;
        }
        for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
            if (strcmp(arguments[2], subjects[i].name) == 0) {
                subjects[i].run();
                puts("ok");
                return 0;
            }
        }
    }
    fprintf(stderr, "usage: driver <kernels.ptx> <subject> [<kind of fault>]\n");
    return 2;
}
