//! The cards.

use super::CudaError;
use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{CudaContext, result};
use std::sync::Arc;

/// A card that kernels can run on.
#[derive(Clone)]
pub struct Device {
    pub(super) context: Arc<CudaContext>,
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
        // SAFETY: everything of an engine happens on one stream, in order; events between streams would only get into the
        // way of capturing launches.
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

    /// Compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
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
