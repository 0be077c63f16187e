//! What labels photos: a network on the CPU with the image kernels around it, or CUDA devices that take a photo's bytes and give back
//! its labels.

use crate::engine::cuda::{CudaEngine, CudaError, PhotoEngine};
use crate::engine::{CpuEngine, EngineError};
use crate::image::{
    AroundNetwork, Frame, LabelError, LabelMap, Labeller, Labels, Photo, Take, Timings, hundredths, palette,
};
use segface_codegen::ir::Output;
use segface_kernels::Context;
use segface_kernels::image::BlendStyle;
use std::sync::Arc;

/// Streams of a device that labels several photos: while one computes, the other copies.
pub const STREAMS: usize = 2;

/// A labeller of photos on the CPU.
///
/// # Errors
/// If the engine gives no logits.
pub fn on_cpu(mut engine: CpuEngine) -> Result<impl Labeller, EngineError> {
    let output = Output::Logits;
    let plan = engine.plan();
    let logits = plan.output(output).ok_or(EngineError::NoSuchOutput { output })?;
    let &[_, height, width, classes] = &plan.graph.values[logits.0].shape[..] else {
        return Err(EngineError::Broken { reason: "its logits are no maps".into() });
    };
    let ctx = Context::new(engine.threads(), engine.isa());
    let network = move |input: &[f32], take: &mut Take<'_>| {
        engine.run(input).map_err(|error| error.to_string())?;
        take(engine.logits().map_err(|error| error.to_string())?, (width, height));
        Ok(())
    };
    Ok(AroundNetwork::new(network, "cpu", classes, ctx))
}

/// Labellers of `photos` photos on the devices of `engines`: several streams each, if there are photos for them, and if the device has
/// room for their working memory.
///
/// # Errors
/// As [`PhotoEngine::new`].
pub fn on_cuda(engines: Vec<CudaEngine>, photos: usize, overlay: bool) -> Result<Vec<CudaLabeller>, EngineError> {
    let networks: Vec<_> = engines.iter().map(|engine| Arc::clone(engine.network())).collect();
    let mut labellers = Vec::new();
    for engine in engines {
        labellers.push(CudaLabeller::new(engine, overlay)?);
    }
    for _ in 1..STREAMS {
        for network in &networks {
            if labellers.len() >= photos {
                return Ok(labellers);
            }
            match CudaEngine::of(Arc::clone(network)) {
                Ok(engine) => labellers.push(CudaLabeller::new(engine, overlay)?),
                Err(error @ CudaError::OutOfMemory { .. }) => tracing::warn!("copies and work take turns: {error}"),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(labellers)
}

/// A stream of a CUDA device: a photo goes up as bytes, labels, regions and the overlay come down.
pub struct CudaLabeller {
    photos: PhotoEngine,
    device: String,
    /// Width and height of the logits.
    logits: (usize, usize),
    classes: usize,
    overlay: bool,
}

impl CudaLabeller {
    /// On an engine's stream; with `overlay`, it also paints the labels over the photo.
    ///
    /// # Errors
    /// As [`PhotoEngine::new`].
    pub fn new(engine: CudaEngine, overlay: bool) -> Result<Self, EngineError> {
        let (program, output) = (engine.program(), Output::Logits);
        let logits = program.output(output).ok_or(EngineError::NoSuchOutput { output })?;
        let &[_, height, width, classes] = &program.graph.values[logits.0].shape[..] else {
            return Err(EngineError::Broken { reason: "its logits are no maps".into() });
        };
        let colors = palette(program.model.variant);
        if classes != colors.len() {
            return Err(EngineError::Broken { reason: format!("its logits are of {classes} classes") });
        }
        let device = engine.device().label();
        let photos = PhotoEngine::new(engine, &colors)?;
        Ok(Self { photos, device, logits: (width, height), classes, overlay })
    }
}

impl Labeller for CudaLabeller {
    type Input = ();

    fn device(&self) -> &str {
        &self.device
    }

    fn prepare(_: &mut Context, _: &Photo, _: &Frame) {}

    fn label(&mut self, photo: &Photo, frame: &Frame, (): &(), timings: &mut Timings) -> Result<Labels, LabelError> {
        let (width, height) = (photo.width, photo.height);
        let frame = frame.on_device(self.logits, self.classes);
        let style = self.overlay.then(|| BlendStyle::for_size(width, height));
        let found = self.photos.label(&frame, &photo.pixels, style);
        let found = found.map_err(|error| LabelError { reason: error.to_string(), lost: error.is_final() })?;
        timings.prepare = hundredths(found.times.before);
        timings.network = hundredths(found.times.network);
        timings.labels = hundredths(found.times.after);
        let map = LabelMap { width, height, labels: found.labels };
        Ok(Labels { map, regions: found.regions, overlay: found.overlay })
    }
}
