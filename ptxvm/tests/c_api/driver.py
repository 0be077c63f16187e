"""Drives the CUDA driver API from Python with nothing but ctypes: `driver.py <kernels.ptx> <subject>`.

Prints "ok" if everything is as CUDA's manual says. As Python's CUDA packages do, it opens libcuda.so.1 and asks
cuGetProcAddress for every other function.
"""

import ctypes
import sys
import threading
import time
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p, sizeof

NOT_READY, ILLEGAL_ADDRESS, INVALID_CONTEXT, INVALID_VALUE = 600, 700, 201, 1
LIBRARY = ctypes.CDLL("libcuda.so.1")


def function(name):
    """The newest function of that name that CUDA 12.0 knows."""
    pointer, status = c_void_p(), c_int(-1)
    result = LIBRARY.cuGetProcAddress_v2(name.encode(), byref(pointer), 12000, c_uint64(0), byref(status))
    assert result == 0 and status.value == 0 and pointer.value, (name, result, status.value)
    return ctypes.CFUNCTYPE(c_int)(pointer.value)


def error_name(code):
    text = c_char_p()
    LIBRARY.cuGetErrorName(code, byref(text))
    return text.value.decode() if text.value else "?"


def expect(wanted, name, *arguments):
    found = function(name)(*arguments)
    assert found == wanted, f"{name} returned {found} ({error_name(found)}), expected {wanted}"


def call(name, *arguments):
    expect(0, name, *arguments)


def start():
    context = c_void_p()
    call("cuInit", 0)
    call("cuDevicePrimaryCtxRetain", byref(context), 0)
    call("cuCtxSetCurrent", context)
    return context


def load(path, name):
    module, kernel = c_void_p(), c_void_p()
    with open(path, "rb") as file:
        call("cuModuleLoadData", byref(module), c_char_p(file.read()))
    call("cuModuleGetFunction", byref(kernel), module, name.encode())
    return kernel


def device_numbers(values, kind=c_uint):
    host = (kind * len(values))(*values)
    pointer = c_uint64()
    call("cuMemAlloc", byref(pointer), c_size_t(sizeof(host)))
    call("cuMemcpyHtoD", pointer, host, c_size_t(sizeof(host)))
    # A copy from pageable memory may return while its last part is under way in the legacy stream, which streams made
    # with CU_STREAM_NON_BLOCKING do not wait for.
    call("cuStreamSynchronize", None)
    return pointer


def host_numbers(pointer, count, kind=c_uint):
    host = (kind * count)()
    call("cuMemcpyDtoH", host, pointer, c_size_t(sizeof(host)))
    return list(host)


def launch(kernel, blocks, threads, arguments, stream=None):
    pointers = (c_void_p * len(arguments))(*(ctypes.cast(byref(value), c_void_p) for value in arguments))
    call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, stream, pointers, None)


def devices(_):
    call("cuInit", 0)
    version, count = c_int(), c_int()
    call("cuDriverGetVersion", byref(version))
    call("cuDeviceGetCount", byref(count))
    assert version.value >= 12000 and count.value >= 1, (version, count)
    for device in range(count.value):
        name, memory = ctypes.create_string_buffer(128), c_size_t()
        call("cuDeviceGetName", name, 128, device)
        call("cuDeviceTotalMem", byref(memory), device)
        attributes = []
        for attribute in (75, 76, 16):
            value = c_int()
            call("cuDeviceGetAttribute", byref(value), attribute, device)
            attributes.append(value.value)
        print(f"{name.value.decode()}: {attributes[0]}.{attributes[1]}, {attributes[2]} multiprocessors")
        assert memory.value > 1 << 30
    assert error_name(NOT_READY) == "CUDA_ERROR_NOT_READY"


def kernels(path):
    start()
    count = 1000
    axpy = load(path, "axpy")
    x = device_numbers([float(i) for i in range(count)], c_float)
    y = device_numbers([1.0] * count, c_float)
    launch(axpy, 4, 256, [c_float(2.5), x, y, c_uint(count)])
    assert host_numbers(y, count, c_float) == [2.5 * i + 1 for i in range(count)]
    expect(INVALID_VALUE, "cuMemFree", c_uint64(0x1234))
    for pointer in (x, y):
        call("cuMemFree", pointer)


def streams(path):
    """A Python function runs in a stream, and what the stream was given after it waits for it."""
    start()
    step = load(path, "step")
    p = device_numbers(range(500))
    stream, before, after = c_void_p(), c_void_p(), c_void_p()
    call("cuStreamCreate", byref(stream), 1)
    call("cuEventCreate", byref(before), 0)
    call("cuEventCreate", byref(after), 0)
    gate, called = threading.Event(), []

    def in_stream(data):
        called.append(data)
        gate.wait()

    host_function = ctypes.CFUNCTYPE(None, c_void_p)(in_stream)
    call("cuEventRecord", before, stream)
    call("cuLaunchHostFunc", stream, host_function, c_void_p(1234))
    launch(step, 2, 256, [p, c_uint(500), c_uint(3)], stream)
    call("cuEventRecord", after, stream)
    expect(NOT_READY, "cuStreamQuery", stream)
    time.sleep(0.02)
    expect(NOT_READY, "cuEventQuery", after)
    gate.set()
    call("cuStreamSynchronize", stream)
    assert called == [1234]
    assert host_numbers(p, 500) == [3 * i + 1 for i in range(500)]
    milliseconds = c_float()
    call("cuEventElapsedTime", byref(milliseconds), before, after)
    assert 19 <= milliseconds.value < 10000, milliseconds


def graphs(path):
    start()
    step = load(path, "step")
    p = device_numbers(range(500))
    stream, graph, executable = c_void_p(), c_void_p(), c_void_p()
    call("cuStreamCreate", byref(stream), 1)
    call("cuStreamBeginCapture", stream, 0)
    for factor in (2, 3):
        launch(step, 2, 256, [p, c_uint(500), c_uint(factor)], stream)
    call("cuStreamEndCapture", stream, byref(graph))
    call("cuGraphInstantiateWithFlags", byref(executable), graph, c_uint64(0))
    assert host_numbers(p, 500) == list(range(500))
    for _ in range(2):
        call("cuGraphLaunch", executable, stream)
    call("cuStreamSynchronize", stream)
    assert host_numbers(p, 500) == [6 * (6 * i + 4) + 4 for i in range(500)]


def threads(path):
    """Each thread has its own current context, and many may launch at once."""
    context = start()
    step = load(path, "step")
    failures = []

    def work(number):
        try:
            expect(INVALID_CONTEXT, "cuCtxSynchronize")
            call("cuCtxSetCurrent", context)
            stream = c_void_p()
            call("cuStreamCreate", byref(stream), 1)
            p = device_numbers([number] * 300)
            for _ in range(20):
                launch(step, 2, 256, [p, c_uint(300), c_uint(1)], stream)
            call("cuStreamSynchronize", stream)
            assert host_numbers(p, 300) == [number + 20] * 300
        except AssertionError as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures, failures


def fault(path):
    start()
    poke = load(path, "poke")
    launch(poke, 1, 1, [c_uint64(0x10)])
    expect(ILLEGAL_ADDRESS, "cuCtxSynchronize")
    expect(ILLEGAL_ADDRESS, "cuMemAlloc", byref(c_uint64()), c_size_t(16))
    expect(ILLEGAL_ADDRESS, "cuCtxSynchronize")
    assert error_name(ILLEGAL_ADDRESS) == "CUDA_ERROR_ILLEGAL_ADDRESS"


if __name__ == "__main__":
    subjects = {subject.__name__: subject for subject in (devices, kernels, streams, graphs, threads, fault)}
    subjects[sys.argv[2]](sys.argv[1])
    print("ok")
