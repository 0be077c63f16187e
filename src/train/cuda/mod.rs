//! An engine of a training step on a CUDA device: the graph of forward, loss and backward (`segface_codegen::grad`) as kernels
//! (`segface_codegen::cuda::compile_training`), launched as one CUDA graph.
//!
//! Parameters, buffers and gradients lie on the card in the order of the [`Layout`], beside what kernels take of the parameters in
//! another form. That is made anew when the parameters have changed: weights are packed on the card; what recipes make (rows of convolutions,
//! position biases, the folded fusion) comes from the host, as do the recipes' adjoints, since both are in f64, small beside a step's
//! products, and the same code as the CPU engine's. The host has copies of the flat arrays, which the trainer reads and changes.

mod places;

use super::{Draws, Engine, Layout, Loss, Ready, Role};
use crate::Error;
use crate::data::Batch;
use crate::engine::EngineError;
use crate::engine::cuda::{Compiler, CudaError, Device, Prepared, Recorded, tune};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use places::{Place, Places};
use segface_codegen::ModelSpec;
use segface_codegen::cuda::{Argument, Launch, TrainingProgram, compile_training};
use segface_codegen::grad::{Means, TrainingOptions, training_with};
use segface_codegen::ir::{Output, Source, ValueId};
use segface_codegen::plan::Precision;
use segface_kernels::loss::LabelError;
use segface_kernels::{Context, Isa};
use std::sync::Arc;

/// Words of `StepData` (`cuda/backward.cuh`): seed, step, micro-batch and scale.
const STEP_WORDS: usize = 6;

/// A replica in training on a card.
pub struct CudaTrainer {
    layout: Layout,
    program: TrainingProgram,
    places: Places,
    input: ValueId,
    stream: Arc<CudaStream>,
    /// On which batches come while the stream makes ready what a step takes of the parameters.
    copies: Arc<CudaStream>,
    card: CardMemory,
    packs: Vec<Prepared>,
    launches: Vec<Prepared>,
    recorded: Option<Recorded>,
    host: Host,
    /// What recipes made last.
    evaluated: Vec<u8>,
    /// For the places of warps.
    context: Context,
}

/// Everything on the card.
struct CardMemory {
    arena: CudaSlice<u8>,
    counters: CudaSlice<u32>,
    parameters: CudaSlice<f32>,
    buffers: CudaSlice<f32>,
    gradients: CudaSlice<f32>,
    /// What is made of the parameters.
    made: CudaSlice<u8>,
    /// Sums of its gradients.
    made_gradients: CudaSlice<f32>,
    labels: CudaSlice<u8>,
    step: CudaSlice<u32>,
    loss: CudaSlice<f64>,
    warps: CudaSlice<f32>,
    warp_starts: CudaSlice<u32>,
    warp_pixels: CudaSlice<u32>,
}

/// A batch as it goes to the card.
struct Staged {
    images: Vec<u8>,
    step: Vec<u32>,
    matrices: Vec<f32>,
    starts: Vec<u32>,
    pixels: Vec<u32>,
}

/// The flat arrays on the host.
struct Host {
    parameters: Vec<f32>,
    buffers: Vec<f32>,
    gradients: Vec<f32>,
    /// Whether the card's parameters, or buffers, are older.
    stale: [bool; 2],
}

impl CudaTrainer {
    /// Compiles a training step for micro-batches of `options.batch` images and takes memory. `precision` is f32 or tf32. Parameters and
    /// buffers are zero.
    ///
    /// # Errors
    /// If the network cannot take that size or be trained so, without a compiler, or with too little memory.
    pub fn new(
        layout: Layout,
        options: &TrainingOptions,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, Error> {
        let trained = |name: &str| layout.find(name).is_some_and(|entry| entry.trained);
        let means = Means { fused: false, ..Means::default() };
        let step = training_with(&layout.model(), options, &trained, means).map_err(EngineError::from)?;
        let tuning = tune::tuning(device).map_err(EngineError::from)?;
        let program = compile_training(&step, precision, &tuning).map_err(EngineError::from)?;
        let broken = |reason: &str| EngineError::Broken { reason: reason.into() };
        let input = program.graph.values.iter().position(|value| matches!(value.source, Source::Input));
        let input = ValueId(input.ok_or_else(|| broken("it has no input"))?);
        let places = Places::new(&layout, &program)
            .ok_or_else(|| broken("it is made of tensors that the layout does not have"))?;
        let shape = program.graph.values[input.0].shape.clone();
        Ok(Self::on(device, layout, program, places, input, &shape).map_err(EngineError::from)?)
    }

    fn on(
        device: &Device,
        layout: Layout,
        program: TrainingProgram,
        places: Places,
        input: ValueId,
        shape: &[usize],
    ) -> Result<Self, CudaError> {
        let images = Compiler::find()?.for_device(&program.kernels, device)?;
        let pairs = program.kernels.iter().zip(&images);
        let functions = pairs.map(|(kernel, image)| device.load(kernel, image)).collect::<Result<Vec<_>, _>>()?;
        let stream = device.context.new_stream().map_err(CudaError::of("making a stream"))?;
        let copies = device.context.new_stream().map_err(CudaError::of("making a stream"))?;
        let (batch, height, width) = (shape[0], shape[1], shape[2]);
        let warped = if program.model.variant.warps() { batch } else { 0 };
        let floats = |len: usize, what: &'static str| device.allocate::<f32>(&stream, len, what);
        let mut card = CardMemory {
            arena: device.allocate(&stream, program.memory.arena_bytes, "working memory")?,
            counters: device.allocate(&stream, program.counters, "counters")?,
            parameters: floats(layout.parameters_len(), "parameters")?,
            buffers: floats(layout.buffers_len(), "statistics")?,
            gradients: floats(layout.parameters_len(), "gradients")?,
            made: device.allocate(&stream, places.made_bytes, "packed weights")?,
            made_gradients: floats(places.made_gradients, "gradients")?,
            labels: device.allocate(&stream, batch * height * width, "labels")?,
            step: device.allocate(&stream, STEP_WORDS, "a step's numbers")?,
            loss: device.allocate(&stream, 2, "the loss")?,
            warps: floats(6 * warped, "warps")?,
            warp_starts: device.allocate(&stream, warped * cells(height, width), "warps")?,
            warp_pixels: device.allocate(&stream, warped * height * width, "warps")?,
        };
        stream.memset_zeros(&mut card.counters).map_err(CudaError::of("clearing counters"))?;
        let addresses = Addresses::of(&card, &stream);
        let prepare = |launch: &Launch| {
            let words = launch.arguments.iter().map(|argument| addresses.word(&program, &places, argument)).collect();
            let node = &program.graph.nodes[launch.node].name;
            let kernel = (&program.kernels[launch.kernel], functions[launch.kernel].clone());
            Prepared::new(device, kernel, launch, node, words)
        };
        let packs = program.packs.iter().map(prepare).collect::<Result<_, _>>()?;
        let launches = program.launches.iter().map(prepare).collect::<Result<_, _>>()?;
        stream.synchronize().map_err(CudaError::of("clearing counters"))?;
        let zeros = |len: usize| vec![0.0; len];
        let host = Host {
            parameters: zeros(layout.parameters_len()),
            buffers: zeros(layout.buffers_len()),
            gradients: zeros(layout.parameters_len()),
            stale: [true; 2],
        };
        let context = Context::new(1, Isa::best());
        Ok(Self {
            layout,
            program,
            places,
            input,
            stream,
            copies,
            card,
            packs,
            launches,
            recorded: None,
            host,
            evaluated: Vec::new(),
            context,
        })
    }

    /// Which network.
    pub fn model(&self) -> ModelSpec {
        self.program.model
    }

    /// The kernels and launches of a step.
    pub fn program(&self) -> &TrainingProgram {
        &self.program
    }

    /// Bytes on the card: arena, parameters, gradients, buffers, and what is made of them.
    pub fn bytes(&self) -> usize {
        let card = &self.card;
        let floats = [&card.parameters, &card.buffers, &card.gradients, &card.made_gradients];
        card.arena.len() + card.made.len() + floats.iter().map(|slice| slice.num_bytes()).sum::<usize>()
    }

    /// What the last step gave out as `output`, with its shape.
    ///
    /// # Errors
    /// If the engine was made without that output.
    pub fn output(&mut self, output: Output) -> Result<(Vec<usize>, Vec<f32>), Error> {
        let found = self.program.graph.outputs.iter().find(|(o, _)| *o == output);
        let value = found.ok_or(EngineError::NoSuchOutput { output })?.1;
        let offset = self.program.memory.offsets[value.0].ok_or(EngineError::NoSuchOutput { output })?;
        let shape = self.program.graph.values[value.0].shape.clone();
        let place = self.card.arena.slice(offset..offset + 4 * shape.iter().product::<usize>());
        let downloaded = self.stream.clone_dtoh(&place).and_then(|bytes| self.stream.synchronize().map(|()| bytes));
        let bytes = downloaded.map_err(CudaError::of("downloading a result")).map_err(EngineError::from)?;
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok((shape, numbers))
    }

    /// What a batch must be, before anything of it goes to the card.
    fn check(&self, batch: &Batch) -> Result<(), EngineError> {
        let value = &self.program.graph.values[self.input.0];
        if batch.images.len() != value.len() {
            return Err(EngineError::InputLength { expected: value.shape.clone(), found: batch.images.len() });
        }
        let broken = |reason: String| Err(EngineError::Broken { reason });
        let pixels = value.len() / 3;
        if batch.labels.len() != pixels {
            return broken(format!("{} labels for {pixels} pixels", batch.labels.len()));
        }
        let warps = if self.program.model.variant.warps() { value.shape[0] } else { 0 };
        if batch.warps.len() != warps {
            return broken(format!("{} warps, expected {warps}", batch.warps.len()));
        }
        let classes = self.program.loss.classes;
        if let Some(at) = batch.labels.iter().position(|label| usize::from(*label) >= classes) {
            let (image, pixel) = (at / self.program.loss.pixels, at % self.program.loss.pixels);
            let error = LabelError { image, pixel, label: batch.labels[at], classes };
            return Err(EngineError::Labels { reason: error.to_string() });
        }
        Ok(())
    }

    /// What of a batch goes to the card, in the form it has there.
    fn staged(&mut self, batch: &Batch, draws: Draws, scale: f32) -> Staged {
        let halves = |word: u64| [word as u32, (word >> 32) as u32];
        let mut staged = Staged {
            images: segface_kernels::cuda::elements(segface_kernels::DType::F32, &batch.images),
            step: [halves(draws.seed), halves(draws.step), [draws.micro_batch, scale.to_bits()]].concat(),
            matrices: batch.warps.iter().flat_map(|warp| warp.out_of_network()).collect(),
            starts: Vec::new(),
            pixels: Vec::new(),
        };
        let shape = &self.program.graph.values[self.input.0].shape;
        for warp in &batch.warps {
            let (starts, pixels) = warp.cells(&mut self.context, (shape[2], shape[1]));
            staged.starts.extend(starts);
            staged.pixels.extend(pixels);
        }
        staged
    }

    /// Brings the batch to the card, on the stream of copies. What it reads must stay until the step was waited for.
    fn upload(&mut self, batch: &Batch, staged: &Staged) -> Result<(), CudaError> {
        let of = || CudaError::of("uploading a batch");
        let (copies, card) = (&self.copies, &mut self.card);
        let offset = self.program.memory.offsets[self.input.0].unwrap_or_default();
        let mut place = card.arena.slice_mut(offset..offset + staged.images.len());
        copies.memcpy_htod(&staged.images, &mut place).map_err(of())?;
        copies.memcpy_htod(&batch.labels, &mut card.labels).map_err(of())?;
        copies.memcpy_htod(&staged.step, &mut card.step).map_err(of())?;
        if !batch.warps.is_empty() {
            copies.memcpy_htod(&staged.matrices, &mut card.warps).map_err(of())?;
            copies.memcpy_htod(&staged.starts, &mut card.warp_starts).map_err(of())?;
            copies.memcpy_htod(&staged.pixels, &mut card.warp_pixels).map_err(of())?;
        }
        Ok(())
    }

    /// Makes anew what is older than the host's arrays, on the stream of the step.
    fn refresh(&mut self) -> Result<(), CudaError> {
        let [parameters, buffers] = self.host.stale;
        let of = || CudaError::of("uploading parameters");
        if parameters {
            self.stream.memcpy_htod(&self.host.parameters, &mut self.card.parameters).map_err(of())?;
        }
        if buffers {
            self.stream.memcpy_htod(&self.host.buffers, &mut self.card.buffers).map_err(of())?;
        }
        let evaluated = parameters || (buffers && self.places.depends(&self.program.constants, true));
        if evaluated && self.places.evaluated_bytes > 0 {
            self.evaluated = self.places.evaluate(&self.program, &self.host.parameters, &self.host.buffers);
            let mut place = self.card.made.slice_mut(..self.evaluated.len());
            self.stream.memcpy_htod(&self.evaluated, &mut place).map_err(of())?;
        }
        if evaluated {
            self.packs.iter_mut().try_for_each(|pack| pack.run(&self.stream))?;
        }
        self.host.stale = [false; 2];
        Ok(())
    }

    /// A step on what was uploaded: returns its loss.
    fn run(&mut self) -> Result<Loss, CudaError> {
        let of = || CudaError::of("running a training step");
        self.stream.join(&self.copies).map_err(of())?;
        self.stream.memset_zeros(&mut self.card.gradients).map_err(of())?;
        self.stream.memset_zeros(&mut self.card.made_gradients).map_err(of())?;
        if self.recorded.is_none() {
            self.recorded = Some(Recorded::of(&self.stream, &mut self.launches)?);
        }
        if let Some(recorded) = &self.recorded {
            recorded.launch()?;
        }
        let loss = self.stream.clone_dtoh(&self.card.loss).map_err(of())?;
        self.stream.synchronize().map_err(of())?;
        Ok(Loss { cross_entropy: loss[0], dice: loss[1] })
    }

    /// Adds the card's gradients to the host's, and takes over running statistics.
    fn download(&mut self) -> Result<(), CudaError> {
        let of = || CudaError::of("downloading gradients");
        let gradients = self.stream.clone_dtoh(&self.card.gradients).map_err(of())?;
        let made = self.stream.clone_dtoh(&self.card.made_gradients).map_err(of())?;
        let buffers = self.stream.clone_dtoh(&self.card.buffers).map_err(of())?;
        self.stream.synchronize().map_err(of())?;
        let host = &mut self.host;
        for entry in self.layout.parameters().iter().filter(|entry| entry.trained) {
            let sums = host.gradients[entry.range.clone()].iter_mut();
            sums.zip(&gradients[entry.range.clone()]).for_each(|(sum, d)| *sum += d);
        }
        self.places.adjoint(&made, &host.parameters, &host.buffers, &mut host.gradients);
        for entry in self.layout.buffers().iter().filter(|entry| entry.trained) {
            let own = &mut host.buffers[entry.range.clone()];
            match entry.role {
                Role::Statistic => own.copy_from_slice(&buffers[entry.range.clone()]),
                Role::Count => own.iter_mut().for_each(|count| *count += 1.0),
                Role::Parameter | Role::Fixed => {}
            }
        }
        Ok(())
    }
}

/// Numbers that `FaceWarp::cells` gives for the beginnings of its lists.
fn cells(height: usize, width: usize) -> usize {
    (height + 1) * (width + 1) + 1
}

/// Addresses of what launches name.
struct Addresses {
    arena: u64,
    counters: u64,
    parameters: u64,
    buffers: u64,
    gradients: u64,
    made: u64,
    made_gradients: u64,
    labels: u64,
    step: u64,
    loss: u64,
    warps: [u64; 3],
}

impl Addresses {
    fn of(card: &CardMemory, stream: &Arc<CudaStream>) -> Self {
        Self {
            arena: card.arena.device_ptr(stream).0,
            counters: card.counters.device_ptr(stream).0,
            parameters: card.parameters.device_ptr(stream).0,
            buffers: card.buffers.device_ptr(stream).0,
            gradients: card.gradients.device_ptr(stream).0,
            made: card.made.device_ptr(stream).0,
            made_gradients: card.made_gradients.device_ptr(stream).0,
            labels: card.labels.device_ptr(stream).0,
            step: card.step.device_ptr(stream).0,
            loss: card.loss.device_ptr(stream).0,
            warps: [
                card.warps.device_ptr(stream).0,
                card.warp_starts.device_ptr(stream).0,
                card.warp_pixels.device_ptr(stream).0,
            ],
        }
    }

    /// The parameter's bits; the driver reads as many as the kernel's signature says.
    fn word(&self, program: &TrainingProgram, places: &Places, argument: &Argument) -> u64 {
        let placed =
            |offset: Option<usize>| self.arena + offset.expect("what a launch names has a place in the arena") as u64;
        let at = |base: u64, index: usize| base + (index * size_of::<f32>()) as u64;
        match *argument {
            Argument::Value(value) => placed(program.memory.offsets[value.0]),
            Argument::Workspace { node, offset } => placed(program.memory.workspaces[node]) + offset as u64,
            Argument::Constant(index) => match places.constants[index] {
                Place::Parameter(first) => at(self.parameters, first),
                Place::Buffer(first) => at(self.buffers, first),
                Place::Made(byte) => self.made + byte as u64,
                Place::Nowhere => 0,
            },
            Argument::Gradient(value) => match places.gradient(value) {
                Place::Parameter(first) => at(self.gradients, first),
                Place::Made(byte) => self.made_gradients + byte as u64,
                Place::Buffer(_) | Place::Nowhere => 0,
            },
            Argument::Counters { first } => at(self.counters, first),
            Argument::Null => 0,
            Argument::I32(value) => u64::from(value as u32),
            Argument::F32(value) => u64::from(value.to_bits()),
            Argument::Labels => self.labels,
            Argument::Step => self.step,
            Argument::Loss => self.loss,
            Argument::Warps => self.warps[0],
            Argument::WarpStarts => self.warps[1],
            Argument::WarpPixels => self.warps[2],
        }
    }
}

impl Engine for CudaTrainer {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn parameters(&self) -> &[f32] {
        &self.host.parameters
    }

    fn parameters_mut(&mut self) -> &mut [f32] {
        self.host.stale[0] = true;
        &mut self.host.parameters
    }

    fn buffers(&self) -> &[f32] {
        &self.host.buffers
    }

    fn buffers_mut(&mut self) -> &mut [f32] {
        self.host.stale[1] = true;
        &mut self.host.buffers
    }

    fn gradients(&self) -> &[f32] {
        &self.host.gradients
    }

    fn gradients_mut(&mut self) -> &mut [f32] {
        &mut self.host.gradients
    }

    fn parameters_and_gradients(&mut self) -> (&mut [f32], &[f32]) {
        self.host.stale[0] = true;
        (&mut self.host.parameters, &self.host.gradients)
    }

    fn accumulate(&mut self, batch: &Batch, draws: Draws, scale: f32, _: &mut Ready<'_>) -> Result<Loss, Error> {
        self.check(batch)?;
        let staged = self.staged(batch, draws, scale);
        let done = self.upload(batch, &staged).and_then(|()| self.refresh()).and_then(|()| self.run());
        // Whatever happened, nothing is under way any more that reads what is dropped now.
        let waited = self.copies.synchronize().map_err(CudaError::of("uploading a batch"));
        let loss = done.and_then(|loss| waited.map(|()| loss)).map_err(EngineError::from)?;
        self.download().map_err(EngineError::from)?;
        Ok(loss)
    }
}
