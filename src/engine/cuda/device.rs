//! The cards.

use super::compiler::driver_version;
use super::error::is_about_code;
use super::{CudaError, Image};
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DeviceRepr, result};
use cudarc::nvrtc::Ptx;
use segface_codegen::cuda::Kernel;
use std::sync::Arc;

/// Dynamic shared memory that a kernel may use without asking.
const FREE_SHARED_BYTES: u32 = 48 * 1024;

/// A card that kernels can run on.
#[derive(Clone)]
pub struct Device {
    pub(crate) context: Arc<CudaContext>,
    name: String,
    capability: (i32, i32),
}

impl Device {
    /// Opens card `ordinal`.
    ///
    /// # Errors
    /// Without a driver, without that card, or where it is too old.
    pub fn open(ordinal: usize) -> Result<Device, CudaError> {
        let found = devices()?;
        if ordinal >= found {
            return Err(CudaError::NoDevice { wanted: ordinal, found });
        }
        let context = CudaContext::new(ordinal).map_err(CudaError::of(format!("opening device {ordinal}")))?;
        // SAFETY: everything of an engine happens on one stream, in order, and what engines share was waited for before any of
        // them began; events between streams would only get into the way of capturing launches.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(CudaError::of("asking for the device's name"))?;
        let capability = context.compute_capability().map_err(CudaError::of("asking for the compute capability"))?;
        if capability < (8, 0) {
            return Err(CudaError::OldDevice { name, major: capability.0, minor: capability.1 });
        }
        Ok(Device { context, name, capability })
    }

    /// What the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.context.ordinal()
    }

    /// As `--device` and messages name it: `cuda:0 (NVIDIA H100)`.
    pub fn label(&self) -> String {
        format!("cuda:{} ({})", self.ordinal(), self.name)
    }

    /// Compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Whether there is no card behind it: times mean nothing then. A virtual device may call itself what it likes; the one known
    /// to these programs says what it is in its UUID.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn is_virtual(&self) -> Result<bool, CudaError> {
        let uuid = self.context.uuid().map_err(CudaError::of("asking for the device's UUID"))?;
        let begin: Vec<u8> = uuid.bytes.iter().take(5).map(|byte| *byte as u8).collect();
        Ok(begin == b"ptxvm")
    }

    /// Loads a kernel and allows it the shared memory it needs.
    pub(crate) fn load(&self, kernel: &Kernel, image: &Image) -> Result<CudaFunction, CudaError> {
        let what = || format!("loading the kernel {}", kernel.name);
        let code = match image {
            Image::Ptx(text) => Ptx::from_src(text),
            Image::Cubin(bytes) => Ptx::from_binary(bytes.clone()),
        };
        let module = self.context.load_module(code).map_err(|source| match is_about_code(source.0) {
            true => CudaError::CodeRefused {
                device: self.label(),
                arch: self.capability.0 * 10 + self.capability.1,
                kernel: kernel.name.clone(),
                driver: driver_version(),
                source,
            },
            false => CudaError::Driver { what: what(), source },
        })?;
        let function = module.load_function(&kernel.name).map_err(CudaError::of(what()))?;
        if kernel.shared_bytes > FREE_SHARED_BYTES {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, kernel.shared_bytes as i32).map_err(CudaError::of(what()))?;
        }
        Ok(function)
    }

    /// Memory for `len` elements, at least one. It holds anything: whoever asks writes before anybody reads.
    pub(crate) fn allocate<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        what: &'static str,
    ) -> Result<CudaSlice<T>, CudaError> {
        // SAFETY: the contract above.
        unsafe { stream.alloc::<T>(len.max(1)) }.map_err(|source| {
            let bytes = len * size_of::<T>();
            match source.0 {
                CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                    let free = self.memory().map_or(0, |(free, _)| free);
                    CudaError::OutOfMemory { device: self.label(), bytes, what, free }
                }
                _ => CudaError::Driver { what: format!("allocating {bytes} bytes of {what}"), source },
            }
        })
    }

    /// Bytes of its memory: free, and in all.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.mem_get_info().map_err(CudaError::of("asking for free memory"))
    }

    /// Its multiprocessors.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn multiprocessors(&self) -> Result<usize, CudaError> {
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.context.attribute(attribute).map_err(CudaError::of("asking for multiprocessors"))?;
        Ok(count as usize)
    }
}

/// How many cards the driver shows.
///
/// # Errors
/// Without a driver.
pub fn devices() -> Result<usize, CudaError> {
    // SAFETY: looks for a library and loads it.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    result::init().map_err(CudaError::of("starting the driver"))?;
    Ok(result::device::get_count().map_err(CudaError::of("counting devices"))? as usize)
}
