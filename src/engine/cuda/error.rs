//! What can go wrong between a program and a device.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use std::path::PathBuf;

/// Why a network could not be compiled for, or run on, a CUDA device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("no CUDA driver was found (libcuda.so.1); install NVIDIA's driver, or use `--device cpu`")]
    NoDriver,
    /// The driver knows no device of that number.
    #[error(
        "there is no CUDA device {wanted}: the driver shows {found}; `segface doctor` lists them, and CUDA_VISIBLE_DEVICES may hide some"
    )]
    NoDevice {
        /// Its number.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// The kernels need a newer card.
    #[error(
        "{name} has compute capability {major}.{minor}; the kernels need 8.0 or later (Ampere); use `--device cpu`"
    )]
    OldDevice {
        /// The card.
        name: String,
        /// Its compute capability.
        major: i32,
        /// See `major`.
        minor: i32,
    },
    /// There is no compiler.
    #[error(
        "no NVRTC was found, which compiles the kernels for this card (looked in {looked}); install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, name its folder in SEGFACE_NVRTC, or use an engine file made by `segface compile --cards`"
    )]
    NoCompiler {
        /// Where it was looked for.
        looked: String,
    },
    /// The compiler refused a kernel: ours is wrong, or the compiler is not one that we know.
    #[error("NVRTC {version} does not compile the kernel {kernel} for {target}:\n{log}")]
    Compile {
        /// The compiler's version.
        version: String,
        /// Which kernel.
        kernel: String,
        /// For which architecture.
        target: String,
        /// What it said.
        log: String,
    },
    /// An engine file has no code for the card.
    #[error("this engine has code for {have}, but {name} is sm_{arch}; compile it again with `--cards sm_{arch}`")]
    WrongCard {
        /// The card.
        name: String,
        /// Its architecture.
        arch: u32,
        /// What the file holds.
        have: String,
    },
    /// The card or its driver does not take a kernel's code.
    #[error(
        "{device} does not take the kernel {kernel}: {} ({}). Its driver is for CUDA {}.{}, and code of a newer compiler needs a newer one: update NVIDIA's driver, or make the code for this card (sm_{arch}) with an NVRTC no newer than the driver (SEGFACE_NVRTC names its folder; `segface compile --cards sm_{arch}` makes an engine file)",
        describe(source), name(source), driver.0, driver.1
    )]
    CodeRefused {
        /// The card.
        device: String,
        /// Its architecture.
        arch: i32,
        /// Which kernel.
        kernel: String,
        /// The newest CUDA version that the driver knows.
        driver: (i32, i32),
        /// The driver's answer.
        source: DriverError,
    },
    /// Not enough memory on the device.
    #[error(
        "{device} has no room for {bytes} bytes of {what}: {free} bytes are free; choose a smaller batch or size, free memory on the device, or use `--device cpu`"
    )]
    OutOfMemory {
        /// The card.
        device: String,
        /// How much.
        bytes: usize,
        /// What for.
        what: &'static str,
        /// How much is free.
        free: usize,
    },
    /// The kernel's compilation could not be read or kept.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The driver refused or a kernel failed.
    #[error("{what} failed on the device: {} ({})", describe(source), name(source))]
    Driver {
        /// What was done.
        what: String,
        /// The driver's answer.
        source: DriverError,
    },
}

impl CudaError {
    /// The driver's answer to `what`.
    pub(crate) fn of(what: impl Into<String>) -> impl FnOnce(DriverError) -> CudaError {
        let what = what.into();
        move |source| CudaError::Driver { what, source }
    }

    /// Whether the device is lost to this process: every later call fails too.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            CudaError::Driver { source: DriverError(code), .. }
                if !matches!(code, CUresult::CUDA_ERROR_OUT_OF_MEMORY | CUresult::CUDA_ERROR_INVALID_VALUE)
        )
    }
}

/// Whether the driver says that it cannot run this kind of code.
pub(super) fn is_about_code(error: CUresult) -> bool {
    use CUresult::{
        CUDA_ERROR_INVALID_IMAGE, CUDA_ERROR_INVALID_PTX, CUDA_ERROR_NO_BINARY_FOR_GPU,
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
    };
    matches!(
        error,
        CUDA_ERROR_INVALID_IMAGE
            | CUDA_ERROR_INVALID_PTX
            | CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUDA_ERROR_UNSUPPORTED_PTX_VERSION
    )
}

fn describe(error: &DriverError) -> String {
    error.error_string().map_or_else(|_| "unknown error".into(), |text| text.to_string_lossy().into_owned())
}

fn name(error: &DriverError) -> String {
    error.error_name().map_or_else(|_| format!("{}", error.0 as i32), |text| text.to_string_lossy().into_owned())
}
