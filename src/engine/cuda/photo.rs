//! Photos on a card: bytes go up, class ids come down, and what lies between stays there.

use super::{Compiler, CudaEngine, CudaError, Device};
use crate::engine::EngineError;
use cudarc::driver::{CudaFunction, CudaSlice, CudaStream, DevicePtr, result};
use segface_codegen::cuda::image_kernels;
use segface_codegen::ir::Output;
use segface_kernels::image::ClassRegion;
use segface_kernels::image::cuda::{Frame, Kernel, Launch, THREADS, regions};
use std::ffi::c_void;
use std::sync::Arc;

/// The kernels of [`Frame`].
const KERNELS: [Kernel; 8] = [
    Kernel::ResizeHorizontal,
    Kernel::ResizeRgb,
    Kernel::ResizeNormalise,
    Kernel::WarpRgb,
    Kernel::Unwarp,
    Kernel::ArgmaxLabels,
    Kernel::ResizeLabels,
    Kernel::ClassRegions,
];

/// Class ids of a photo's pixels, and where each class lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhotoLabels {
    /// `[height, width]`
    pub labels: Vec<u8>,
    /// One for each class.
    pub regions: Vec<ClassRegion>,
}

/// The way of photos into a network on a card and out of it: everything happens on the network's stream, in order.
pub struct PhotoKernels {
    device: Device,
    stream: Arc<CudaStream>,
    functions: Vec<CudaFunction>,
    photo: CudaSlice<u8>,
    memory: CudaSlice<u8>,
}

impl PhotoKernels {
    /// Compiles the kernels for an engine's photos.
    ///
    /// # Errors
    /// If the program gives no logits; without a compiler, or if the driver refuses.
    pub fn new(engine: &CudaEngine) -> Result<Self, EngineError> {
        let (program, device, stream) = (engine.program(), engine.device(), engine.stream());
        let output = Output::Logits;
        let logits = program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let classes = program.graph.values[logits.0].shape.last().copied().unwrap_or(0);
        let kernels = image_kernels(&KERNELS, program.precision.dtype(), classes);
        let images = Compiler::find()?.for_device(&kernels, device)?;
        let pairs = kernels.iter().zip(&images);
        let functions = pairs.map(|(kernel, image)| device.load(kernel, image)).collect::<Result<_, _>>()?;
        let empty = || device.allocate::<u8>(stream, 0, "a photo");
        Ok(Self { device: device.clone(), stream: Arc::clone(stream), functions, photo: empty()?, memory: empty()? })
    }

    /// Makes the network's input at the address `input` from a photo, RGB8 `[height, width, 3]`.
    ///
    /// # Errors
    /// If there is no room for the photo, or a launch fails.
    ///
    /// # Panics
    /// If `photo` is not as long as the frame's.
    pub(super) fn before(&mut self, frame: &Frame, photo: &[u8], input: u64) -> Result<(), CudaError> {
        assert_eq!(photo.len(), 3 * frame.labels().len(), "RGB8 of the frame's photo");
        Self::reserve(&self.device, &self.stream, &mut self.photo, photo.len())?;
        Self::reserve(&self.device, &self.stream, &mut self.memory, frame.bytes())?;
        let uploading = "uploading a photo";
        let mut place = self.photo.slice_mut(..photo.len());
        self.stream.memcpy_htod(photo, &mut place).map_err(CudaError::of(uploading))?;
        for (begin, bytes) in frame.uploads() {
            let mut place = self.memory.slice_mut(begin..begin + bytes.len());
            self.stream.memcpy_htod(&bytes, &mut place).map_err(CudaError::of(uploading))?;
        }
        let (memory, photo) = (self.memory.device_ptr(&self.stream).0, self.photo.device_ptr(&self.stream).0);
        frame.before(memory, photo, input).iter().try_for_each(|launch| self.launch(launch))
    }

    /// Labels of the photo that [`PhotoKernels::before`] was called with, from the network's logits, f32 at the address `logits`, and
    /// their own labels where the network gives them too. Waits for them.
    ///
    /// # Errors
    /// If a launch fails, or failed before.
    pub(super) fn after(&mut self, frame: &Frame, logits: u64, labels: Option<u64>) -> Result<PhotoLabels, CudaError> {
        let mut zeros = self.memory.slice_mut(frame.zeros());
        self.stream.memset_zeros(&mut zeros).map_err(CudaError::of("clearing labels"))?;
        let memory = self.memory.device_ptr(&self.stream).0;
        frame.after(memory, logits, labels).iter().try_for_each(|launch| self.launch(launch))?;
        let download = |part| self.stream.clone_dtoh(&self.memory.slice(part));
        let found = download(frame.labels()).map_err(CudaError::of("downloading labels"))?;
        let fields = download(frame.regions()).map_err(CudaError::of("downloading regions"))?;
        self.stream.synchronize().map_err(CudaError::of("labelling a photo"))?;
        let fields: Vec<u32> = fields.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(PhotoLabels { labels: found, regions: regions(&fields, frame.photo()) })
    }

    /// At least `bytes` of memory; it is never given back, as the next photo will need as much. Every part is written before it is
    /// read: by the host, by a launch, or cleared.
    fn reserve(
        device: &Device,
        stream: &Arc<CudaStream>,
        memory: &mut CudaSlice<u8>,
        bytes: usize,
    ) -> Result<(), CudaError> {
        if memory.len() < bytes {
            *memory = device.allocate(stream, bytes, "a photo")?;
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        let place = KERNELS.iter().position(|kernel| *kernel == launch.kernel);
        let function = place.map(|index| &self.functions[index]).expect("a frame's kernels are those above");
        let mut words: Vec<u64> = launch.arguments.iter().map(|argument| argument.bits()).collect();
        let mut parameters: Vec<*mut c_void> = words.iter_mut().map(|word| (word as *mut u64).cast()).collect();
        // SAFETY: the words are the kernel's parameters, in its order; the photo and the frame's memory live as long as this, and
        // are not given back before the stream has been waited for.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                launch.grid.into(),
                (THREADS, 1, 1),
                0,
                self.stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(CudaError::of(format!("launching {}", launch.kernel.name())))
    }
}
