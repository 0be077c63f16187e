//! The kernels around the network, as kernels of its program.

use super::Kernel;
use segface_kernels::DType;
use segface_kernels::image::cuda::{Kernel as ImageKernel, THREADS, source};

/// Kernels of [`ImageKernel`] for a network whose input has elements of type `input` and which tells `classes` classes, in the order
/// of `kernels`: each a source of its own, so that they are compiled side by side and kept like the network's.
///
/// # Panics
/// As [`source`].
pub fn image_kernels(kernels: &[ImageKernel], input: DType, classes: usize) -> Vec<Kernel> {
    let kernel = |kernel: &ImageKernel| Kernel {
        name: kernel.name().into(),
        source: source(&[*kernel], input, classes),
        threads: THREADS,
        shared_bytes: 0,
    };
    kernels.iter().map(kernel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kernel_is_named_as_its_source_names_it() {
        for kernel in image_kernels(&ImageKernel::ALL, DType::Bf16, 19) {
            assert!(kernel.source.contains(&format!(" {}(", kernel.name)), "{}", kernel.source);
            assert_eq!(kernel.source.matches("__global__").count(), 1);
        }
    }
}
