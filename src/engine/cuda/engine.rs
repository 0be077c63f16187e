//! Runs a program on a card: one arena, one stream, one graph of launches.

use super::{CudaError, CudaNetwork, Device, Image};
use crate::engine::EngineError;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, result};
use segface_codegen::cuda::{Argument, Kernel, Launch, Program};
use segface_codegen::ir::{Output, ValueId};
use segface_kernels::DType;
use std::ffi::c_void;
use std::sync::Arc;

/// A program on a card: runs one batch at a time, beside other engines of the same network on streams of their own.
pub struct CudaEngine {
    network: Arc<CudaNetwork>,
    stream: Arc<CudaStream>,
    arena: CudaSlice<u8>,
    /// Kept for the kernels that use them.
    _counters: CudaSlice<u32>,
    pub(super) launches: Vec<Prepared>,
    graph: Option<Recorded>,
    /// The logits of the last run that were asked for.
    logits: Vec<f32>,
}

/// Launches, recorded.
pub(crate) struct Recorded(CudaGraph);

// SAFETY: the driver allows a graph's calls on any thread, but not two at a time; only its engine makes them, through `&mut`.
unsafe impl Send for Recorded {}

impl Recorded {
    /// Records `launches` on the stream, on which nothing else happens meanwhile.
    ///
    /// # Errors
    /// If the driver refuses one of them.
    pub(crate) fn of(stream: &Arc<CudaStream>, launches: &mut [Prepared]) -> Result<Self, CudaError> {
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(CudaError::of("beginning a capture"))?;
        let launched = launches.iter_mut().try_for_each(|launch| launch.run(stream));
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).map_err(CudaError::of("ending a capture"));
        launched?;
        graph?.map(Recorded).ok_or_else(|| CudaError::Driver {
            what: "ending a capture".into(),
            source: result::DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED),
        })
    }

    /// Launches all of them, on the stream that they were recorded on.
    ///
    /// # Errors
    /// If the driver refuses.
    pub(crate) fn launch(&self) -> Result<(), CudaError> {
        self.0.launch().map_err(CudaError::of("launching the graph"))
    }
}

/// A launch with its arguments as the driver takes them.
pub(crate) struct Prepared {
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
    /// As [`CudaNetwork::new`] and [`CudaEngine::of`].
    pub fn new(program: Arc<Program>, device: &Device) -> Result<Self, CudaError> {
        Self::of(Arc::new(CudaNetwork::new(program, device)?))
    }

    /// Takes memory for a program whose kernels are compiled: one image for each, in order.
    ///
    /// # Errors
    /// As [`CudaNetwork::with_images`] and [`CudaEngine::of`].
    pub fn with_images(program: Arc<Program>, device: &Device, images: &[Image]) -> Result<Self, CudaError> {
        Self::of(Arc::new(CudaNetwork::with_images(program, device, images)?))
    }

    /// Takes working memory and a stream for a network on its card.
    ///
    /// # Errors
    /// With too little memory.
    pub fn of(network: Arc<CudaNetwork>) -> Result<Self, CudaError> {
        let (program, device) = (&network.program, &network.device);
        let stream = device.context.new_stream().map_err(CudaError::of("making a stream"))?;
        let arena = device.allocate::<u8>(&stream, program.memory.arena_bytes, "working memory")?;
        let mut counters = device.allocate::<u32>(&stream, program.counters, "counters")?;
        stream.memset_zeros(&mut counters).map_err(CudaError::of("clearing counters"))?;

        let constants = network.constants.device_ptr(&stream).0;
        let bases = [arena.device_ptr(&stream).0, constants, counters.device_ptr(&stream).0];
        let prepare = |launch: &Launch| {
            let function = network.functions[launch.kernel].clone();
            let words = launch.arguments.iter().map(|argument| word(&network, bases, argument)).collect();
            let node = &program.graph.nodes[launch.node].name;
            Prepared::new(device, (&program.kernels[launch.kernel], function), launch, node, words)
        };
        let launches = program.launches.iter().map(prepare).collect::<Result<_, CudaError>>()?;
        stream.synchronize().map_err(CudaError::of("clearing counters"))?;
        Ok(Self { network, stream, arena, _counters: counters, launches, graph: None, logits: Vec::new() })
    }

    /// The network that it runs, for further engines.
    pub fn network(&self) -> &Arc<CudaNetwork> {
        &self.network
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.network.program
    }

    /// The card.
    pub fn device(&self) -> &Device {
        &self.network.device
    }

    /// Runs the program on `input` [batch, height, width, 3], normalised, rounded to the program's element type.
    ///
    /// # Errors
    /// If the input has another length than the program's, or a kernel fails.
    pub fn run(&mut self, input: &[f32]) -> Result<(), EngineError> {
        let broken = |reason: &str| EngineError::Broken { reason: reason.into() };
        let id = self.network.program.input().ok_or_else(|| broken("it has no input"))?;
        let value = &self.network.program.graph.values[id.0];
        if input.len() != value.len() {
            return Err(EngineError::InputLength { expected: value.shape.clone(), found: input.len() });
        }
        let offset = self.network.program.memory.offsets[id.0].ok_or_else(|| broken("its input has no place"))?;
        let bytes = segface_kernels::cuda::elements(value.dtype, input);
        let mut place = self.arena.slice_mut(offset..offset + bytes.len());
        self.stream.memcpy_htod(&bytes, &mut place).map_err(CudaError::of("uploading the input"))?;
        self.launch_all()?;
        self.stream.synchronize().map_err(CudaError::of("running the network"))?;
        Ok(())
    }

    /// Launches everything as a graph, captured the first time.
    pub(super) fn launch_all(&mut self) -> Result<(), CudaError> {
        if let Some(graph) = &self.graph {
            return graph.launch();
        }
        let graph = Recorded::of(&self.stream, &mut self.launches)?;
        graph.launch()?;
        self.graph = Some(graph);
        Ok(())
    }

    /// The stream on which everything of this engine happens.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Where a computed value lies on the device.
    pub(super) fn address(&self, value: ValueId) -> u64 {
        let offset = self.network.program.memory.offsets[value.0].expect("computed values have a place in the arena");
        self.arena.device_ptr(&self.stream).0 + offset as u64
    }

    /// Runs the launches one by one on what the arena holds, waiting for each, and calls `observe` with the time it took.
    ///
    /// # Errors
    /// If a kernel fails: the first that did, by name.
    pub fn run_observed(&mut self, observe: &mut dyn FnMut(&Launch, std::time::Duration)) -> Result<(), CudaError> {
        let program = Arc::clone(&self.network.program);
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
        let id = self.network.program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let value = &self.network.program.graph.values[id.0];
        let offset = self.network.program.memory.offsets[id.0].ok_or(EngineError::NoSuchOutput { output })?;
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
    /// The launch of a kernel for a node of that name; `words` are the bits of its arguments.
    ///
    /// # Errors
    /// If the driver does not say how many blocks of a cooperative launch run at once.
    pub(crate) fn new(
        device: &Device,
        (kernel, function): (&Kernel, CudaFunction),
        launch: &Launch,
        node: &str,
        words: Vec<u64>,
    ) -> Result<Self, CudaError> {
        let [mut blocks, y, z] = launch.grid;
        if launch.cooperative {
            // All must run at once, and share their work however many they are.
            let a_multiprocessor = function
                .occupancy_max_active_blocks_per_multiprocessor(kernel.threads, kernel.shared_bytes as usize, None)
                .map_err(CudaError::of(format!("asking how many blocks of {} run at once", kernel.name)))?;
            blocks = blocks.min(a_multiprocessor * device.multiprocessors()? as u32).max(1);
        }
        Ok(Self {
            function,
            grid: (blocks, y, z),
            block: (kernel.threads, 1, 1),
            shared_bytes: kernel.shared_bytes,
            cooperative: launch.cooperative,
            name: format!("{} ({node})", kernel.name),
            words,
        })
    }

    pub(crate) fn run(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
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
fn word(network: &CudaNetwork, [arena, constants, counters]: [u64; 3], argument: &Argument) -> u64 {
    let (program, offsets) = (&network.program, &network.offsets);
    let placed = |offset: Option<usize>| arena + offset.expect("what a launch names has a place in the arena") as u64;
    match *argument {
        Argument::Value(value) => placed(program.memory.offsets[value.0]),
        Argument::Workspace { node, offset } => placed(program.memory.workspaces[node]) + offset as u64,
        Argument::Constant(index) => constants + offsets[index] as u64,
        Argument::Counters { first } => counters + 4 * first as u64,
        Argument::Null => 0,
        Argument::I32(value) => u64::from(value as u32),
        Argument::F32(value) => u64::from(value.to_bits()),
        Argument::Gradient(_)
        | Argument::Labels
        | Argument::Step
        | Argument::Loss
        | Argument::Warps
        | Argument::WarpStarts
        | Argument::WarpPixels => unreachable!("what a step of training alone has, in a program of inference"),
    }
}
