/* A program that has a function of the driver's name itself, as one linked with ptxvm has, and opens the library: the
   library must go on calling its own. */
#include "cuda_api.h"
#include <dlfcn.h>
#include <stdio.h>

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    (void)pointer, (void)bytes;
    return -1;
}

int main(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *function = NULL;
    CUresult (*find)(const char *, void **, int, uint64_t, int *);
    int status = -1;
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&find = dlsym(library, "cuGetProcAddress_v2");
    if (!find || find("cuMemAlloc", &function, 12000, 0, &status) != SUCCESS || function == NULL) {
        fprintf(stderr, "cuMemAlloc is not found (status %d)\n", status);
        return 1;
    }
    if (function == (void *)cuMemAlloc_v2) {
        fprintf(stderr, "the library found the program's function for its own\n");
        return 1;
    }
    puts("ok");
    return 0;
}
