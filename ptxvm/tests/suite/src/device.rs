//! The first device, its default stream, and the few calls that every program makes.

use std::sync::Arc;

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits,
        sys::{self, CUfunction_attribute},
    },
    nvrtc::Ptx,
};

use crate::{kernel_source, nvrtc_ptx};

/// A device's primary context with its default stream.
pub struct Device {
    /// The context.
    pub context: Arc<CudaContext>,
    /// Where everything is queued that names no other stream.
    pub stream: Arc<CudaStream>,
}

impl Device {
    /// Device 0. Panics with the cure where there is no libcuda or it finds no device.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self::numbered(0)
    }

    /// The device of that number.
    pub fn numbered(ordinal: usize) -> Self {
        // SAFETY: it only tries to open the library.
        let present = unsafe { sys::is_culib_present() };
        assert!(
            present,
            "libcuda.so.1 was not found: set LD_LIBRARY_PATH to the folder that holds it (`cargo xtask test` does)"
        );
        let context =
            CudaContext::new(ordinal).unwrap_or_else(|error| panic!("device {ordinal} cannot be used: {error}"));
        let stream = context.default_stream();
        Self { context, stream }
    }

    /// A module of the corpus: `kernels/<name>.cu` compiled by NVRTC and loaded.
    pub fn module(&self, name: &str) -> Arc<CudaModule> {
        self.module_of(name, &kernel_source(name))
    }

    /// A module from CUDA source.
    pub fn module_of(&self, name: &str, source: &str) -> Arc<CudaModule> {
        self.module_of_ptx(name, nvrtc_ptx(name, source))
    }

    /// A module from PTX text.
    pub fn module_of_ptx(&self, name: &str, ptx: String) -> Arc<CudaModule> {
        let loaded = self.context.load_module(Ptx::from_src(ptx));
        loaded.unwrap_or_else(|error| panic!("the module of {name} cannot be loaded: {error}"))
    }

    /// A kernel of the corpus, with dynamic shared memory allowed as far as the device has it.
    pub fn kernel(&self, module: &str, name: &str) -> CudaFunction {
        function(&self.module(module), name)
    }

    /// A copy on the device.
    pub fn upload<T: DeviceRepr>(&self, data: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(data).expect("copy to the device")
    }

    /// Zeros on the device.
    pub fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> CudaSlice<T> {
        self.stream.alloc_zeros(count).expect("allocation")
    }

    /// A buffer with the bytes of `0xff` everywhere: what a kernel forgets to write shows (NaN, −1).
    pub fn poisoned<T: DeviceRepr + Clone>(&self, count: usize) -> CudaSlice<T> {
        // SAFETY: written to the last byte before anything reads it.
        let slice = unsafe { self.stream.alloc::<T>(count) }.expect("allocation");
        let bytes = count * size_of::<T>();
        let address = address(&self.stream, &slice);
        // SAFETY: the range is that of the buffer, which lives on this stream.
        unsafe { cudarc::driver::result::memset_d8_async(address, 0xff, bytes, self.stream.cu_stream()) }
            .expect("memset");
        slice
    }

    /// A copy on the host, after everything queued before it.
    pub fn download<T: DeviceRepr>(&self, slice: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(slice).expect("copy to the host")
    }
}

/// A kernel of a module, with dynamic shared memory allowed up to 96 KiB where it may ask for that much.
pub fn function(module: &Arc<CudaModule>, name: &str) -> CudaFunction {
    let function = module.load_function(name).unwrap_or_else(|error| panic!("no kernel {name} in its module: {error}"));
    // Devices without that much say so at the launch that needs it.
    let _ = function.set_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 96 << 10);
    function
}

/// The device address of a buffer.
pub fn address<T>(stream: &CudaStream, slice: &CudaSlice<T>) -> u64 {
    use cudarc::driver::DevicePtr as _;
    let (address, _guard) = slice.device_ptr(stream);
    address
}
