"""Compiles shapes.cu to PTX with one NVRTC: see README.md.

    python3 make.py <folder of NVRTC with lib/ and include/> <prefix of the output>
"""

import ctypes
import glob
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VARIANTS = [(f"compute_{number}", []) for number in (75, 80, 90, 100, 120)] + [("compute_80", ["-lineinfo"])]


def load(root):
    """libnvrtc, after its builtins: some wheels have no run path that would find them."""
    libraries = [path for path in glob.glob(f"{root}/lib/libnvrtc*.so*") if ".alt." not in path]
    libraries.sort(key=lambda path: "builtins" not in path)
    return [ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL) for path in libraries][-1]


def compile_to_ptx(nvrtc, source, name, options):
    program = ctypes.c_void_p()
    size = ctypes.c_size_t()
    if nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None):
        sys.exit("nvrtcCreateProgram failed")
    encoded = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    if nvrtc.nvrtcCompileProgram(program, len(options), encoded):
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(log.value.decode())
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, text)
    return text.value.decode()


def without_folders(ptx):
    """-lineinfo names files by where they lie on this machine: their names alone will do."""
    return re.sub(r'(\.file\s+\d+ ")[^"]*/', r"\1", ptx)


def main():
    root, prefix = sys.argv[1:]
    nvrtc = load(root)
    with open(f"{HERE}/shapes.cu") as file:
        source = file.read()
    for architecture, extra in VARIANTS:
        options = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={root}/include", *extra]
        suffix = "".join("_" + option.lstrip("-") for option in extra)
        with open(f"{HERE}/{prefix}_{architecture}{suffix}.ptx", "w") as file:
            file.write(without_folders(compile_to_ptx(nvrtc, source, "shapes.cu", options)))


if __name__ == "__main__":
    main()
