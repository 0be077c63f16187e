//! Photos on a card: bytes go up, class ids come down, and what lies between stays there.

use super::host::HostBuffer;
use super::{CudaEngine, CudaError, CudaNetwork, Device};
use crate::engine::EngineError;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr, result};
use segface_codegen::cuda::{Kernel as ProgramKernel, Program, image_kernels};
use segface_codegen::ir::Output;
use segface_kernels::image::cuda::{Frame, Kernel, Launch, THREADS, blend_labels, palette_words, regions};
use segface_kernels::image::{BlendStyle, ClassRegion};
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

/// The kernels of [`Frame`], and the one that paints.
const KERNELS: [Kernel; 9] = [
    Kernel::ResizeHorizontal,
    Kernel::ResizeRgb,
    Kernel::ResizeNormalise,
    Kernel::WarpRgb,
    Kernel::Unwarp,
    Kernel::ArgmaxLabels,
    Kernel::ResizeLabels,
    Kernel::ClassRegions,
    Kernel::BlendLabels,
];

/// The kernels that photos need around a program; none if it gives no logits.
pub(super) fn photo_kernels(program: &Program) -> Vec<ProgramKernel> {
    match program.output(Output::Logits) {
        Some(logits) => {
            let classes = program.graph.values[logits.0].shape.last().copied().unwrap_or(0);
            image_kernels(&KERNELS, program.precision.dtype(), classes)
        }
        None => Vec::new(),
    }
}

/// Class ids of a photo's pixels, and where each class lies.
#[derive(Debug, Clone, PartialEq)]
pub struct PhotoLabels {
    /// `[height, width]`
    pub labels: Vec<u8>,
    /// One for each class.
    pub regions: Vec<ClassRegion>,
    /// RGB8 of the photo with the labels painted over it, if it was asked for.
    pub overlay: Option<Vec<u8>>,
    /// What the card's own clock says about it.
    pub times: PhotoTimes,
}

/// Milliseconds of the stream, which other streams' work on the same card may lengthen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PhotoTimes {
    /// Copying the photo up, resizing, normalising, warping.
    pub before: f64,
    /// The network.
    pub network: f64,
    /// Un-warping, resizing the logits, labels, regions, colours, and copying them down.
    pub after: f64,
}

/// An engine with the way of photos into its network and out of it: one photo at a time, everything on the engine's stream, in order.
pub struct PhotoEngine {
    engine: CudaEngine,
    photo: CudaSlice<u8>,
    memory: CudaSlice<u8>,
    palette: CudaSlice<u32>,
    up: HostBuffer,
    down: HostBuffer,
    /// Around the three parts of [`PhotoTimes`].
    marks: [CudaEvent; 4],
}

impl PhotoEngine {
    /// Takes memory for an engine's photos; `palette` has a colour for each class.
    ///
    /// # Errors
    /// If the program is for several images or gives no logits; without a compiler, or if the driver refuses.
    pub fn new(engine: CudaEngine, palette: &[[u8; 3]]) -> Result<Self, EngineError> {
        let (program, device, stream) = (engine.program(), engine.device(), engine.stream());
        let output = Output::Logits;
        program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let input = program.input().ok_or_else(|| EngineError::Broken { reason: "it has no input".into() })?;
        if program.graph.values[input.0].shape[0] != 1 {
            let reason = "it is for several images at a time, and photos come one by one".into();
            return Err(EngineError::Broken { reason });
        }
        engine.network().photo_functions()?;
        let empty = || device.allocate::<u8>(stream, 0, "a photo");
        let (photo, memory) = (empty()?, empty()?);
        let words = palette_words(palette);
        let mut palette = device.allocate::<u32>(stream, words.len(), "colours")?;
        stream.memcpy_htod(&words, &mut palette).map_err(CudaError::of("uploading colours"))?;
        let mark = || {
            device.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(CudaError::of("making an event"))
        };
        let marks = [mark()?, mark()?, mark()?, mark()?];
        let (up, down) = (HostBuffer::new(device), HostBuffer::new(device));
        stream.synchronize().map_err(CudaError::of("uploading colours"))?;
        Ok(Self { photo, memory, palette, up, down, marks, engine })
    }

    /// The engine.
    pub fn engine(&mut self) -> &mut CudaEngine {
        &mut self.engine
    }

    /// The network on its card.
    pub fn network(&self) -> &CudaNetwork {
        self.engine.network()
    }

    /// Labels a photo, RGB8 `[height, width, 3]`, and paints them over it if there is a style to paint in.
    ///
    /// # Errors
    /// If there is no room for the photo, or a kernel fails.
    ///
    /// # Panics
    /// If `photo` is not as long as the frame's.
    pub fn label(
        &mut self,
        frame: &Frame,
        photo: &[u8],
        overlay: Option<BlendStyle>,
    ) -> Result<PhotoLabels, CudaError> {
        let down = Down::of(frame, overlay.is_some());
        let launched = self.launch_all(frame, photo, overlay, &down);
        // Also after a failure: what was launched works on buffers that the next photo needs.
        let waited = self.engine.stream().synchronize().map_err(CudaError::of("labelling the photo"));
        launched.and(waited)?;
        let [before, network, after] = [0, 1, 2].map(|part| self.marks[part].elapsed_ms(&self.marks[part + 1]));
        let ms = |time: Result<f32, _>| time.map(f64::from).map_err(CudaError::of("reading the card's clock"));
        let times = PhotoTimes { before: ms(before)?, network: ms(network)?, after: ms(after)? };

        let bytes = self.down.bytes(down.end)?;
        let fields: Vec<u32> = bytes[down.regions].as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        Ok(PhotoLabels {
            labels: bytes[down.labels].to_vec(),
            regions: regions(&fields, frame.photo()),
            overlay: down.overlay.map(|overlay| bytes[overlay].to_vec()),
            times,
        })
    }

    /// Starts everything that [`PhotoEngine::label`] does on the card; waits for nothing.
    fn launch_all(
        &mut self,
        frame: &Frame,
        photo: &[u8],
        overlay: Option<BlendStyle>,
        down: &Down,
    ) -> Result<(), CudaError> {
        assert_eq!(photo.len(), 3 * frame.labels().len(), "RGB8 of the frame's photo");
        let stream = Arc::clone(self.engine.stream());
        let network = Arc::clone(self.engine.network());
        let device = network.device();
        let program = network.program();
        let value = |value: Option<_>| self.engine.address(value.expect("checked when this was made"));
        let (input, logits) = (value(program.input()), value(program.output(Output::Logits)));
        reserve(device, &stream, &mut self.photo, photo.len())?;
        reserve(device, &stream, &mut self.memory, frame.bytes())?;
        let (memory_at, photo_at) = (self.memory.device_ptr(&stream).0, self.photo.device_ptr(&stream).0);
        let launch = |launch: &Launch| start(network.photo_functions()?, &stream, launch);
        let mark = |event: &CudaEvent| event.record(&stream).map_err(CudaError::of("marking a time"));

        mark(&self.marks[0])?;
        let uploads = frame.uploads();
        let bytes = self.up.bytes(photo.len() + uploads.iter().map(|(_, bytes)| bytes.len()).sum::<usize>())?;
        let (pixels, mut rest) = bytes.split_at_mut(photo.len());
        let uploading = "uploading a photo";
        pixels.copy_from_slice(photo);
        let mut place = self.photo.slice_mut(..photo.len());
        stream.memcpy_htod(&*pixels, &mut place).map_err(CudaError::of(uploading))?;
        for (begin, numbers) in &uploads {
            let (part, after) = rest.split_at_mut(numbers.len());
            part.copy_from_slice(numbers);
            let mut place = self.memory.slice_mut(*begin..begin + numbers.len());
            stream.memcpy_htod(&*part, &mut place).map_err(CudaError::of(uploading))?;
            rest = after;
        }
        frame.before(memory_at, photo_at, input).iter().try_for_each(launch)?;
        mark(&self.marks[1])?;

        self.engine.launch_all()?;
        mark(&self.marks[2])?;

        let mut zeros = self.memory.slice_mut(frame.zeros());
        stream.memset_zeros(&mut zeros).map_err(CudaError::of("clearing labels"))?;
        frame.after(memory_at, logits, None).iter().try_for_each(launch)?;
        if let Some(style) = overlay {
            let labels = memory_at + frame.labels().start as u64;
            // The photo is not needed any more.
            launch(&blend_labels(photo_at, labels, frame.photo(), self.palette.device_ptr(&stream).0, style))?;
        }
        let bytes = self.down.bytes(down.end)?;
        let mut download = |source, part: Range<usize>| stream.memcpy_dtoh(&source, &mut bytes[part]);
        let copied = download(self.memory.slice(frame.regions()), down.regions.clone())
            .and_then(|()| download(self.memory.slice(frame.labels()), down.labels.clone()))
            .and_then(|()| match down.overlay.clone() {
                Some(part) => download(self.photo.slice(..photo.len()), part),
                None => Ok(()),
            });
        copied.map_err(CudaError::of("downloading labels"))?;
        mark(&self.marks[3])
    }
}

/// Where results lie in the host's memory.
struct Down {
    regions: Range<usize>,
    labels: Range<usize>,
    overlay: Option<Range<usize>>,
    end: usize,
}

impl Down {
    fn of(frame: &Frame, overlay: bool) -> Self {
        let regions = 0..frame.regions().len();
        let labels = regions.end..regions.end + frame.labels().len();
        let painted = labels.end..labels.end + 3 * labels.len();
        let end = if overlay { painted.end } else { labels.end };
        Down { regions, labels, overlay: overlay.then_some(painted), end }
    }
}

/// At least `bytes` of memory; it is given back only for more, as the next photo will need as much. Every part is written before it
/// is read: by the host, by a launch, or cleared.
fn reserve(
    device: &Device,
    stream: &Arc<CudaStream>,
    memory: &mut CudaSlice<u8>,
    bytes: usize,
) -> Result<(), CudaError> {
    if memory.len() < bytes {
        // Before it takes the larger one, so that there need not be room for both.
        *memory = device.allocate(stream, 0, "a photo")?;
        *memory = device.allocate(stream, bytes, "a photo")?;
    }
    Ok(())
}

fn start(functions: &[CudaFunction], stream: &CudaStream, launch: &Launch) -> Result<(), CudaError> {
    let place = KERNELS.iter().position(|kernel| *kernel == launch.kernel);
    let function = place.and_then(|index| functions.get(index)).expect("a frame's kernels are those above");
    let mut words: Vec<u64> = launch.arguments.iter().map(|argument| argument.bits()).collect();
    let mut parameters: Vec<*mut c_void> = words.iter_mut().map(|word| (word as *mut u64).cast()).collect();
    // SAFETY: the words are the kernel's parameters, in its order; the photo and the frame's memory live as long as the engine, and
    // are not given back before the stream has been waited for.
    unsafe {
        result::launch_kernel(
            function.cu_function(),
            launch.grid.into(),
            (THREADS, 1, 1),
            0,
            stream.cu_stream(),
            &mut parameters,
        )
    }
    .map_err(CudaError::of(format!("launching {}", launch.kernel.name())))
}
