/* Checks that end the program at the first that fails, saying where and what was found. */
#ifndef CHECK_H
#define CHECK_H

#include "cuda_api.h"
#include <stdio.h>
#include <stdlib.h>

static inline void expect_at(const char *file, int line, const char *call, CUresult found, CUresult wanted) {
    if (found != wanted) {
        const char *name = "no error of CUDA";
        cuGetErrorName(found, &name);
        fprintf(stderr, "%s:%d: %s returned %d (%s), expected %d\n", file, line, call, found, name ? name : "?", wanted);
        exit(1);
    }
}

static inline void check_at(const char *file, int line, const char *condition, int holds) {
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, condition);
        exit(1);
    }
}

#define EXPECT(wanted, call) expect_at(__FILE__, __LINE__, #call, call, wanted)
#define OK(call) EXPECT(SUCCESS, call)
#define CHECK(condition) check_at(__FILE__, __LINE__, #condition, condition)

/* In driver.c. */
extern const char *kernels;
CUcontext start(void);
CUfunction kernel(const char *name);
CUdeviceptr numbers(unsigned count);
void check_numbers(CUdeviceptr at, unsigned count, unsigned from, unsigned by);

/* A host function that waits until its gate is opened. */
typedef struct {
    volatile int open;
} gate;
void wait_at_gate(void *gate);
void open_gate(gate *gate);

/* One subject each. */
void devices(void);
void contexts(void);
void procs(void);
void memory(void);
void modules(void);
void launches(void);
void say(void);
void streams(void);
void order(void);
void graphs(void);
void pools(void);
void several(void);
void leaving(void);
void fault(const char *kind);

#endif
