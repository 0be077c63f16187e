//! Runs a program on a card: one arena, one stream, one graph of launches.

mod timing;

pub use timing::Launching;

use super::{Compiler, CudaError, CudaFile, Device, Image, PhotoKernels, PhotoLabels};
use crate::engine::EngineError;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, result};
use segface_codegen::cuda::{Argument, Launch, Program};
use segface_codegen::ir::{Output, ValueId};
use segface_kernels::DType;
use segface_kernels::image::cuda::Frame;
use std::ffi::c_void;
use std::sync::Arc;

/// Alignment of constants on the device: a whole memory transaction.
const CONSTANT_ALIGNMENT: usize = 256;

/// A program on a card: runs one batch at a time.
pub struct CudaEngine {
    program: Arc<Program>,
    device: Device,
    stream: Arc<CudaStream>,
    arena: CudaSlice<u8>,
    /// Kept for the kernels that read them.
    _constants: CudaSlice<u8>,
    _counters: CudaSlice<u32>,
    launches: Vec<Prepared>,
    graph: Option<CudaGraph>,
    /// The logits of the last run that were asked for.
    logits: Vec<f32>,
}

/// A launch with its arguments as the driver takes them.
struct Prepared {
    function: CudaFunction,
    grid: (u32, u32, u32),
    block: (u32, u32, u32),
    shared_bytes: u32,
    cooperative: bool,
    name: String,
    words: Vec<u64>,
}

impl CudaEngine {
    /// Compiles the program's kernels for the card and takes memory.
    ///
    /// # Errors
    /// Without a compiler, or with too little memory.
    pub fn new(program: Arc<Program>, device: &Device) -> Result<Self, CudaError> {
        let images = Compiler::find()?.for_device(&program.kernels, device)?;
        Self::with_images(program, device, &images)
    }

    /// Takes memory for the program of an engine file.
    ///
    /// # Errors
    /// If the file has no code for the card, or with too little memory.
    pub fn from_file(file: CudaFile, device: &Device) -> Result<Self, CudaError> {
        let program = Arc::new(file.program.clone());
        let mut refused = None;
        for images in file.images_for(device)? {
            match Self::with_images(Arc::clone(&program), device, images) {
                Err(CudaError::Driver { what, source }) if is_about_code(source.0) => {
                    refused = Some(CudaError::Driver { what, source });
                }
                result => return result,
            }
        }
        Err(refused.unwrap_or(CudaError::NoDriver))
    }

    /// Takes memory for a program whose kernels are compiled: one image for each, in order.
    ///
    /// # Errors
    /// With too little memory, or if the driver does not take an image.
    pub fn with_images(program: Arc<Program>, device: &Device, images: &[Image]) -> Result<Self, CudaError> {
        let stream = device.context.new_stream().map_err(CudaError::of("making a stream"))?;
        let pairs = program.kernels.iter().zip(images);
        let functions = pairs.map(|(kernel, image)| device.load(kernel, image)).collect::<Result<Vec<_>, _>>()?;

        let mut offsets = Vec::with_capacity(program.constants.len());
        let mut size = 0usize;
        for (_, _, bytes) in &program.constants {
            offsets.push(size);
            size = (size + bytes.len()).next_multiple_of(CONSTANT_ALIGNMENT);
        }
        let mut constants = device.allocate::<u8>(&stream, size, "weights")?;
        for ((_, _, bytes), offset) in program.constants.iter().zip(&offsets) {
            let mut place = constants.slice_mut(*offset..*offset + bytes.len());
            stream.memcpy_htod(&bytes[..], &mut place).map_err(CudaError::of("uploading weights"))?;
        }
        let arena = device.allocate::<u8>(&stream, program.memory.arena_bytes, "working memory")?;
        let mut counters = device.allocate::<u32>(&stream, program.counters, "counters")?;
        stream.memset_zeros(&mut counters).map_err(CudaError::of("clearing counters"))?;

        let bases = [arena.device_ptr(&stream).0, constants.device_ptr(&stream).0, counters.device_ptr(&stream).0];
        let prepare = |launch: &Launch| {
            let kernel = &program.kernels[launch.kernel];
            Prepared {
                function: functions[launch.kernel].clone(),
                grid: launch.grid.into(),
                block: (kernel.threads, 1, 1),
                shared_bytes: kernel.shared_bytes,
                cooperative: launch.cooperative,
                name: format!("{} ({})", kernel.name, program.graph.nodes[launch.node].name),
                words: launch.arguments.iter().map(|argument| word(&program, &offsets, bases, argument)).collect(),
            }
        };
        let launches = program.launches.iter().map(prepare).collect();
        stream.synchronize().map_err(CudaError::of("uploading weights"))?;
        Ok(Self {
            program,
            device: device.clone(),
            stream,
            arena,
            _constants: constants,
            _counters: counters,
            launches,
            graph: None,
            logits: Vec::new(),
        })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The card.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Runs the program on `input` [batch, height, width, 3], normalised, rounded to the program's element type.
    ///
    /// # Errors
    /// If the input has another length than the program's, or a kernel fails.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        let broken = |reason: &str| EngineError::Broken { reason: reason.into() };
        let id = self.program.input().ok_or_else(|| broken("it has no input"))?;
        let value = &self.program.graph.values[id.0];
        if input.len() != value.len() {
            return Err(EngineError::InputLength { expected: value.shape.clone(), found: input.len() });
        }
        let offset = self.program.memory.offsets[id.0].ok_or_else(|| broken("its input has no place"))?;
        let bytes = segface_kernels::cuda::elements(value.dtype, input);
        let mut place = self.arena.slice_mut(offset..offset + bytes.len());
        self.stream.memcpy_htod(&bytes, &mut place).map_err(CudaError::of("uploading the input"))?;
        self.launch_all()?;
        self.stream.synchronize().map_err(CudaError::of("running the network"))?;
        Ok(())
    }

    /// Launches everything as a graph, captured the first time.
    fn launch_all(&mut self) -> Result<(), CudaError> {
        if let Some(graph) = &self.graph {
            return graph.launch().map_err(CudaError::of("launching the graph"));
        }
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(CudaError::of("beginning a capture"))?;
        let mut launched = Ok(());
        for launch in &mut self.launches {
            launched = launch.run(&self.stream);
            if launched.is_err() {
                break;
            }
        }
        let flags = CUgraphInstantiate_flags(0);
        let graph = self.stream.end_capture(flags).map_err(CudaError::of("ending a capture"));
        launched?;
        let graph = graph?.ok_or_else(|| CudaError::Driver {
            what: "ending a capture".into(),
            source: result::DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        })?;
        graph.launch().map_err(CudaError::of("launching the graph"))?;
        self.graph = Some(graph);
        Ok(())
    }

    /// Labels a photo, RGB8 `[height, width, 3]`: it goes up as bytes, class ids come down, and what lies between stays on the card.
    ///
    /// # Errors
    /// If the program is for several images or gives no logits, there is no room for the photo, or a kernel fails.
    ///
    /// # Panics
    /// If `photo` is not as long as the frame's.
    pub fn label_photo(
        &mut self,
        kernels: &mut PhotoKernels,
        frame: &Frame,
        photo: &[u8],
    ) -> Result<PhotoLabels, EngineError> {
        let input = self.program.input().ok_or_else(|| EngineError::Broken { reason: "it has no input".into() })?;
        if self.program.graph.values[input.0].shape[0] != 1 {
            let reason = "it is for several images at a time, and photos come one by one".into();
            return Err(EngineError::Broken { reason });
        }
        let output = Output::Logits;
        let logits = self.program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let [input, logits] = [input, logits].map(|value| self.address(value));
        kernels.before(frame, photo, input)?;
        self.launch_all()?;
        Ok(kernels.after(frame, logits, None)?)
    }

    /// The stream on which everything of this engine happens.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Where a computed value lies on the device.
    fn address(&self, value: ValueId) -> u64 {
        let offset = self.program.memory.offsets[value.0].expect("computed values have a place in the arena");
        self.arena.device_ptr(&self.stream).0 + offset as u64
    }

    /// Runs the launches one by one on what the arena holds, waiting for each, and calls `observe` with the time it took.
    ///
    /// # Errors
    /// If a kernel fails: the first that did, by name.
    pub fn run_observed(&mut self, observe: &mut dyn FnMut(&Launch, std::time::Duration)) -> Result<(), CudaError> {
        let program = Arc::clone(&self.program);
        for (launch, prepared) in program.launches.iter().zip(&mut self.launches) {
            let begin = std::time::Instant::now();
            prepared.run(&self.stream)?;
            self.stream.synchronize().map_err(CudaError::of(prepared.name.clone()))?;
            observe(launch, begin.elapsed());
        }
        Ok(())
    }

    /// An output of the last run as f32 in the program's layout (channels last), with its shape. Labels come as numbers.
    ///
    /// # Errors
    /// If the program was not compiled to give it out.
    pub fn output(&mut self, output: Output) -> Result<(Vec<usize>, Vec<f32>), EngineError> {
        let id = self.program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let value = &self.program.graph.values[id.0];
        let offset = self.program.memory.offsets[id.0].ok_or(EngineError::NoSuchOutput { output })?;
        let place = self.arena.slice(offset..offset + value.bytes());
        let bytes = self.stream.clone_dtoh(&place).map_err(CudaError::of("downloading a result"))?;
        self.stream.synchronize().map_err(CudaError::of("downloading a result"))?;
        let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        let numbers = match value.dtype {
            DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            DType::Bf16 => pairs().map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
            DType::F16 => pairs().map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
            DType::U8 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
        };
        Ok((value.shape.clone(), numbers))
    }
}

impl CudaEngine {
    /// The logits of the last run, [batch, 4h, 4w, T].
    ///
    /// # Errors
    /// As [`CudaEngine::output`].
    pub fn logits(&mut self) -> Result<&[f32], EngineError> {
        self.logits = self.output(Output::Logits)?.1;
        Ok(&self.logits)
    }
}

impl Prepared {
    fn run(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        let mut parameters: Vec<*mut c_void> = self.words.iter_mut().map(|word| (word as *mut u64).cast()).collect();
        let launch = if self.cooperative { result::launch_cooperative_kernel } else { result::launch_kernel };
        // SAFETY: the words are the kernel's parameters, in its order, made from the same description as its signature; the
        // buffers they point to live as long as the engine.
        unsafe {
            launch(
                self.function.cu_function(),
                self.grid,
                self.block,
                self.shared_bytes,
                stream.cu_stream(),
                &mut parameters,
            )
        }
        .map_err(CudaError::of(format!("launching {}", self.name)))
    }
}

/// The parameter's bits; the driver reads as many as the kernel's signature says.
fn word(program: &Program, offsets: &[usize], [arena, constants, counters]: [u64; 3], argument: &Argument) -> u64 {
    let placed = |offset: Option<usize>| arena + offset.expect("what a launch names has a place in the arena") as u64;
    match *argument {
        Argument::Value(value) => placed(program.memory.offsets[value.0]),
        Argument::Workspace { node, offset } => placed(program.memory.workspaces[node]) + offset as u64,
        Argument::Constant(index) => constants + offsets[index] as u64,
        Argument::Counters { first } => counters + 4 * first as u64,
        Argument::Null => 0,
        Argument::I32(value) => u64::from(value as u32),
        Argument::F32(value) => u64::from(value.to_bits()),
    }
}

/// Whether the driver says that it cannot run this kind of code.
fn is_about_code(error: CUresult) -> bool {
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
