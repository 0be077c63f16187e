//! The seam between photos and networks: whoever makes labels of a photo, on the CPU or on a device.

use super::{Frame, LabelMap, Photo, Timings};
use segface_kernels::{Context, image::ClassRegion};
use std::time::Instant;

/// Makes labels of photos, one at a time, on one thread. Several may work side by side.
pub trait Labeller: Send {
    /// What is made of a photo beforehand, beside the labelling of others.
    type Input: Send;

    /// Where it runs, as messages name it. Labellers of one device are lost together.
    fn device(&self) -> &str;

    /// Makes the input, on any thread.
    fn prepare(ctx: &mut Context, photo: &Photo, frame: &Frame) -> Self::Input;

    /// Labels a photo and notes what took how long in `timings`.
    ///
    /// # Errors
    /// What went wrong, and whether other photos are worth a try.
    fn label(
        &mut self,
        photo: &Photo,
        frame: &Frame,
        input: &Self::Input,
        timings: &mut Timings,
    ) -> Result<Labels, LabelError>;
}

/// What a labeller makes of a photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Labels {
    /// Class ids.
    pub map: LabelMap,
    /// Count and bounds of each class.
    pub regions: Vec<ClassRegion>,
    /// RGB8 of the photo with the labels painted over it, if the labeller has painted it already.
    pub overlay: Option<Vec<u8>>,
}

/// Why a labeller failed.
#[derive(Debug)]
pub struct LabelError {
    /// What happened and what to do.
    pub reason: String,
    /// Whether its device is of no more use to this run. Else it was the photo, and others go on.
    pub lost: bool,
}

/// Takes logits `[h, w, classes]` with their size (w, h).
pub type Take<'a> = dyn FnMut(&[f32], (usize, usize)) + 'a;

/// A network from normalised pixels to logits, wherever it runs, with everything around it on the CPU.
pub struct AroundNetwork<N> {
    network: N,
    device: String,
    classes: usize,
    ctx: Context,
}

impl<N: FnMut(&[f32], &mut Take<'_>) -> Result<(), String> + Send> AroundNetwork<N> {
    /// `network` computes logits of `classes` classes from an input `[height, width, 3]` and hands them on; an error of it says why no
    /// other photo would fare better. `ctx` is for what follows it.
    pub fn new(network: N, device: &str, classes: usize, ctx: Context) -> Self {
        Self { network, device: device.into(), classes, ctx }
    }
}

impl<N: FnMut(&[f32], &mut Take<'_>) -> Result<(), String> + Send> Labeller for AroundNetwork<N> {
    type Input = Vec<f32>;

    fn device(&self) -> &str {
        &self.device
    }

    fn prepare(ctx: &mut Context, photo: &Photo, frame: &Frame) -> Vec<f32> {
        let (width, height) = frame.network();
        let mut input = vec![0f32; 3 * width * height];
        frame.input(ctx, photo, &mut input);
        input
    }

    fn label(
        &mut self,
        _: &Photo,
        frame: &Frame,
        input: &Vec<f32>,
        timings: &mut Timings,
    ) -> Result<Labels, LabelError> {
        let Self { network, classes, ctx, .. } = self;
        let start = Instant::now();
        let mut found = None;
        let ran = network(input, &mut |logits, size| {
            timings.network = since(start);
            let start = Instant::now();
            let map = frame.labels(ctx, logits, size, *classes);
            let regions = map.regions(*classes);
            timings.labels = since(start);
            found = Some(Labels { map, regions, overlay: None });
        });
        ran.map_err(|reason| LabelError { reason, lost: true })?;
        Ok(found.expect("a network that succeeds hands over its logits"))
    }
}

/// Milliseconds since `start`, in hundredths.
pub(super) fn since(start: Instant) -> f64 {
    hundredths(start.elapsed().as_secs_f64() * 1e3)
}

/// Milliseconds as the summaries have them.
pub(crate) fn hundredths(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}
