//! The libraries that tests and benches need, pinned by version and hash.

use crate::{archive::Wheel, deps::Library};

/// The judge of the networks' results, without the CUDA libraries that torch's wheel otherwise drags in: the CPU
/// library needs only `libcupti` and `libcudart` beside it.
pub(crate) const LIBTORCH: Library = Library {
    // tch is built for this version; torch-sys refuses others.
    name: "libtorch 2.13.0 for CPU",
    folder: "libtorch",
    variable: "LIBTORCH",
    signs: &["lib/libtorch_cpu.so", "lib/libtorch_cpu.dylib", "lib/torch_cpu.lib"],
    wheels: &[
        Wheel {
            package: "torch",
            version: "2.13.0",
            file: "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            sha256: "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
            take: &[
                ("torch/include/", "include"),
                ("torch/lib/libtorch_cpu.so", "lib"),
                ("torch/lib/libc10.so", "lib"),
                ("torch/lib/libgomp.so.1", "lib"),
            ],
        },
        Wheel {
            package: "nvidia-cuda-cupti",
            version: "13.0.85",
            file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
            sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
            take: &[("nvidia/cu13/lib/libcupti.so.13", "lib")],
        },
        Wheel { take: &[("nvidia/cu13/lib/libcudart.so.13", "lib")], ..CUDA_13_RUNTIME },
    ],
    written: &[
        // torch-sys always links -ltorch, and the wheel's own libtorch.so needs CUDA: the linker gets this script.
        ("lib/libtorch.so", "INPUT(libtorch_cpu.so)\n"),
        // torch-sys reads the version here.
        ("build-version", "2.13.0\n"),
    ],
};

/// The compiler of CUDA kernels, with the headers that kernels include: of `crt` NVRTC reads only `mma.h`, and of CCCL
/// `cooperative_groups.h` needs `nv/target`. CUDA 13 emits PTX with untyped registers for the newest architectures.
pub(crate) const NVRTC: Library = Library {
    name: "NVRTC 13.0 with the headers of CUDA 13.0",
    folder: "nvrtc",
    variable: "PTXVM_TEST_NVRTC",
    signs: &["lib/libnvrtc.so.13", "lib/libnvrtc.so"],
    wheels: &[
        Wheel {
            package: "nvidia-cuda-nvrtc",
            version: "13.0.88",
            file: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            take: &[("nvidia/cu13/lib/libnvrtc.so.13", "lib"), ("nvidia/cu13/lib/libnvrtc-builtins.so.13.0", "lib")],
        },
        CUDA_13_RUNTIME,
        CUDA_13_CRT,
        Wheel {
            package: "nvidia-cuda-cccl",
            version: "13.0.85",
            file: "nvidia_cuda_cccl-13.0.85-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
            take: &[
                ("nvidia/cu13/include/nv/", "include/nv"),
                ("nvidia/cu13/include/cccl/nv/", "include/nv"),
                ("nvidia/cu13/include/cccl/cuda/", "include/cuda"),
            ],
        },
    ],
    written: &[],
};

/// The same of the CUDA before, whose PTX is still common.
pub(crate) const NVRTC_12: Library = Library {
    name: "NVRTC 12.9 with the headers of CUDA 12.9",
    folder: "nvrtc12",
    variable: "PTXVM_TEST_NVRTC12",
    signs: &["lib/libnvrtc.so.12", "lib/libnvrtc.so"],
    wheels: &[
        Wheel {
            package: "nvidia-cuda-nvrtc-cu12",
            version: "12.9.86",
            file: "nvidia_cuda_nvrtc_cu12-12.9.86-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
            take: &[
                ("nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "lib"),
                ("nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9", "lib"),
            ],
        },
        Wheel {
            package: "nvidia-cuda-runtime-cu12",
            version: "12.9.79",
            file: "nvidia_cuda_runtime_cu12-12.9.79-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3",
            take: &[("nvidia/cuda_runtime/include/", "include")],
        },
        // The files taken are the same, byte by byte, in the 40 MB wheel of nvcc 12.9.
        CUDA_13_CRT,
        Wheel {
            package: "nvidia-cuda-cccl-cu12",
            version: "12.9.27",
            file: "nvidia_cuda_cccl_cu12-12.9.27-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "37869e17ce2e1ecec6eddf1927cca0f8c34e64fd848d40453df559091e2d7117",
            take: &[("nvidia/cuda_cccl/include/nv/", "include/nv"), ("nvidia/cuda_cccl/include/cuda/", "include/cuda")],
        },
    ],
    written: &[],
};

/// NVIDIA's assembler, which needs no GPU to judge PTX, and its disassembler. The oldest disassembler that is published
/// as a wheel is of CUDA 13.2.
pub(crate) const CUDA_TOOLS: Library = Library {
    name: "ptxas 13.0 and nvdisasm 13.2",
    folder: "cuda-tools",
    variable: "PTXVM_TEST_CUDA_TOOLS",
    signs: &["bin/ptxas"],
    wheels: &[
        Wheel {
            package: "nvidia-cuda-nvcc",
            version: "13.0.88",
            file: "nvidia_cuda_nvcc-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
            take: &[("nvidia/cu13/bin/ptxas", "bin")],
        },
        Wheel {
            package: "nvidia-cuda-nvdisasm",
            version: "13.2.86",
            file: "nvidia_cuda_nvdisasm-13.2.86-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "53606e719ecae07a2335f95902d5a1393a0cc1c317499ee7ffcf628a44385f2c",
            take: &[("nvidia/cu13/bin/nvdisasm", "bin")],
        },
    ],
    written: &[],
};

const CUDA_13_RUNTIME: Wheel = Wheel {
    package: "nvidia-cuda-runtime",
    version: "13.0.96",
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    take: &[("nvidia/cu13/include/", "include")],
};

const CUDA_13_CRT: Wheel = Wheel {
    package: "nvidia-cuda-crt",
    version: "13.0.88",
    file: "nvidia_cuda_crt-13.0.88-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    take: &[("nvidia/cu13/include/crt/mma.h", "include/crt"), ("nvidia/cu13/include/crt/mma.hpp", "include/crt")],
};
