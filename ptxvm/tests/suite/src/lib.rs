//! What the suite's programs share: a device, kernels compiled by NVRTC, data and comparisons.
//!
//! Nothing here knows which library stands behind `libcuda.so.1`: the programs drive the CUDA driver API through cudarc, as
//! on a machine with a GPU. The library is found by the dynamic loader, so the command that runs the suite sets
//! `LD_LIBRARY_PATH`; without it every test fails and says so.

mod compare;
mod compiler;
mod device;
pub mod mutants;
mod random;

pub use compare::{assert_close, assert_equal, erf};
pub use compiler::{kernel_source, nvrtc_ptx};
pub use device::{Device, address, function};
pub use random::Random;

/// Launches a kernel on a stream and panics with its name where the launch is refused:
/// `launch!(stream, function, grid, block, dynamic_shared; &a, &mut b, &n)`.
#[macro_export]
macro_rules! launch {
    ($stream:expr, $function:expr, $grid:expr, $block:expr, $shared:expr; $($argument:expr),* $(,)?) => {
        $crate::try_launch!($stream, $function, $grid, $block, $shared; $($argument),*)
            .unwrap_or_else(|error| panic!("launch of {} failed: {error}", stringify!($function)))
    };
}

/// `launch!` that returns the driver's error.
#[macro_export]
macro_rules! try_launch {
    ($stream:expr, $function:expr, $grid:expr, $block:expr, $shared:expr; $($argument:expr),* $(,)?) => {{
        use ::cudarc::driver::PushKernelArg as _;
        let configuration =
            ::cudarc::driver::LaunchConfig { grid_dim: $grid, block_dim: $block, shared_mem_bytes: $shared };
        // SAFETY: the arguments are those of the kernel's signature; that the kernel keeps to its buffers is what is tested.
        unsafe { $stream.launch_builder(&$function)$(.arg($argument))*.launch(configuration) }.map(|_| ())
    }};
}
