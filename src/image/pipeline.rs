//! Many photos through one network: decoding the next ones and writing the last ones run beside the labellers.

use super::{
    ClassSummary, Crop, Frame, ImageError, LabelError, Labeller, Labels, Landmarks, ModelSummary, OutputNames, Photo,
    PhotoSummary, Timings, decode_file, encode_labels, encode_overlay,
    labeller::since,
    overlay, palette,
    queue::{Queue, Taken},
    summary::corners,
    write_output,
};
use segface_codegen::Variant;
use segface_kernels::{Context, Isa};
use std::{
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// A photo that this many devices were lost at is not tried on another.
const MOST_DEVICES_LOST: usize = 2;

/// What is done with every photo of a run.
#[derive(Debug, Clone)]
pub struct ParseOptions<'a> {
    /// The label set; LaPa's needs `landmarks`.
    pub variant: Variant,
    /// The network, for the summaries; its `input` is the size photos are resized to.
    pub model: ModelSummary,
    /// The part of each photo to look at.
    pub crop: Option<Crop>,
    /// Five points per face, for a variant that warps; others ignore them.
    pub landmarks: Option<&'a Landmarks>,
    /// Most pixels of a photo, see [`super::DEFAULT_MAX_PIXELS`].
    pub max_pixels: u64,
    /// Whether to write the overlay, which takes longer than all the rest but the network.
    pub overlay: bool,
    /// Instruction set of the image kernels.
    pub isa: Isa,
    /// Threads that read and decode, and as many that encode and write.
    pub helpers: usize,
}

/// One photo and what became of it.
pub type Outcome = (PathBuf, Result<PhotoSummary, ImageError>);

/// What became of a run.
#[derive(Debug)]
pub struct Run {
    /// Of each photo, in the order of the files.
    pub outcomes: Vec<Outcome>,
    /// Devices that were lost on the way, each once.
    pub lost: Vec<Loss>,
}

/// A device that was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub device: String,
    /// The photo that it was lost at. Another that was on the same device at the time may be the cause.
    pub photo: PathBuf,
    /// What happened.
    pub reason: String,
}

/// A photo on its way to a labeller.
struct Prepared<I> {
    index: usize,
    photo: Photo,
    frame: Frame,
    input: I,
    timings: Timings,
    warnings: Vec<String>,
    /// Devices that were lost at it, and why.
    lost: Vec<(String, String)>,
}

/// A photo on its way to the disk.
struct Labelled {
    index: usize,
    photo: Photo,
    frame: Frame,
    labels: Labels,
    timings: Timings,
    warnings: Vec<String>,
}

/// What the threads of a run share.
struct Shared<'a, I> {
    files: &'a [PathBuf],
    names: &'a [OutputNames],
    options: &'a ParseOptions<'a>,
    next: AtomicUsize,
    to_label: Queue<Prepared<I>>,
    to_disk: Queue<Labelled>,
    finished: Mutex<Vec<Option<Result<PhotoSummary, ImageError>>>>,
    lost: Mutex<Vec<Loss>>,
    done: &'a (dyn Fn(&Path, &Result<PhotoSummary, ImageError>) + Sync),
}

/// Parses `files[i]` into `names[i]`. Each labeller has a thread and takes the next photo when it is free.
///
/// A photo that cannot be read or does not fit is passed over; `done` hears of each, from another thread, as it is finished. When a
/// result cannot be written the run stops: the next one could not either. What a device had in work when it was lost goes to
/// another one, if there is one; results that were finished stay.
///
/// At most `2 · labellers + 3 · helpers` decoded photos are in memory at a time.
///
/// # Panics
/// If `files` and `names` differ in length, or there is no labeller.
pub fn parse_photos<L: Labeller>(
    files: &[PathBuf],
    names: &[OutputNames],
    options: &ParseOptions<'_>,
    labellers: Vec<L>,
    done: &(dyn Fn(&Path, &Result<PhotoSummary, ImageError>) + Sync),
) -> Run {
    assert_eq!(files.len(), names.len());
    assert!(!labellers.is_empty(), "somebody must label the photos");
    let helpers = options.helpers.clamp(1, files.len().max(1));
    let shared = Shared {
        files,
        names,
        options,
        next: AtomicUsize::new(0),
        to_label: Queue::new(helpers, labellers.len()),
        to_disk: Queue::new(labellers.len(), helpers),
        finished: Mutex::new(files.iter().map(|_| None).collect()),
        lost: Mutex::new(Vec::new()),
        done,
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| shared.prepare_all::<L>());
            scope.spawn(|| shared.write_all());
        }
        let run = |labeller| scope.spawn(|| shared.label_all(labeller));
        let running: Vec<_> = labellers.into_iter().map(run).collect();
        let ended: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
        // Nobody is left who would take a photo.
        shared.to_label.stop();
        ended.into_iter().for_each(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    shared.into_run()
}

impl<I: Send> Shared<'_, I> {
    fn prepare_all<L: Labeller<Input = I>>(&self) {
        let _maker = self.to_label.maker();
        let mut ctx = Context::new(1, self.options.isa);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = self.files.get(index) else { return };
            match self.prepare::<L>(&mut ctx, index, file) {
                Ok(prepared) => {
                    if self.to_label.put(prepared).is_err() {
                        return;
                    }
                }
                Err(error) => self.finish(index, Err(error)),
            }
        }
    }

    fn prepare<L: Labeller<Input = I>>(
        &self,
        ctx: &mut Context,
        index: usize,
        file: &Path,
    ) -> Result<Prepared<I>, ImageError> {
        let options = self.options;
        let start = Instant::now();
        let photo = decode_file(file, options.max_pixels)?;
        let decode = since(start);
        let start = Instant::now();
        let mut warnings = Vec::new();
        let points = match options.landmarks {
            Some(landmarks) if options.variant.warps() => Some(landmarks.of(file)?),
            _ => None,
        };
        if points.is_some_and(|points| points.look_mirrored()) {
            warnings.push("the landmarks look mirrored: left means the left of the picture".into());
        }
        let [width, height] = options.model.input;
        let frame = Frame::new((photo.width, photo.height), options.crop, (width, height), points.as_ref())?;
        let input = L::prepare(ctx, &photo, &frame);
        let timings = Timings { decode, prepare: since(start), ..Timings::default() };
        Ok(Prepared { index, photo, frame, input, timings, warnings, lost: Vec::new() })
    }

    fn label_all<L: Labeller<Input = I>>(&self, mut labeller: L) {
        let _maker = self.to_disk.maker();
        while let Some(mut taken) = self.to_label.take() {
            let Prepared { photo, frame, input, timings, .. } = taken.thing();
            match labeller.label(photo, frame, input, timings) {
                Ok(labels) => {
                    let Prepared { index, photo, frame, timings, warnings, .. } = taken.finish();
                    tracing::debug!("{} labelled on {}", self.files[index].display(), labeller.device());
                    let labelled = Labelled { index, photo, frame, labels, timings, warnings };
                    if self.to_disk.put(labelled).is_err() {
                        return;
                    }
                }
                Err(LabelError { reason, lost: false }) => {
                    let error = ImageError::Label { device: labeller.device().into(), reason };
                    self.finish(taken.finish().index, Err(error));
                }
                Err(LabelError { reason, lost: true }) => return self.lose(labeller.device(), reason, taken),
            }
        }
    }

    /// A device was lost at a photo: another takes it, unless it seems to be the photo.
    fn lose(&self, device: &str, reason: String, mut taken: Taken<'_, Prepared<I>>) {
        let prepared = taken.thing();
        let photo = self.files[prepared.index].clone();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.iter().all(|loss| loss.device != device) {
            lost.push(Loss { device: device.into(), photo, reason: reason.clone() });
        }
        drop(lost);
        if prepared.lost.iter().all(|(other, _)| other != device) {
            prepared.lost.push((device.into(), reason));
        }
        if prepared.lost.len() < MOST_DEVICES_LOST {
            taken.hand_back();
        } else {
            let prepared = taken.finish();
            self.finish(prepared.index, Err(lost_at(prepared.lost)));
        }
    }

    fn write_all(&self) {
        let mut ctx = Context::new(1, self.options.isa);
        while let Some(taken) = self.to_disk.take() {
            let labelled = taken.finish();
            let index = labelled.index;
            let result = self.write(&mut ctx, labelled);
            let hopeless = matches!(result, Err(ImageError::Write { .. }));
            self.finish(index, result);
            if hopeless {
                self.to_disk.stop();
                self.to_label.stop();
            }
        }
    }

    fn write(&self, ctx: &mut Context, labelled: Labelled) -> Result<PhotoSummary, ImageError> {
        let Labelled { index, photo, frame, labels, mut timings, mut warnings } = labelled;
        let (names, options) = (&self.names[index], self.options);
        let start = Instant::now();
        let colors = palette(options.variant);
        write_output(&names.labels, |out| encode_labels(out, &labels.map, &colors))?;
        if options.overlay {
            let painted = labels.overlay.unwrap_or_else(|| overlay(ctx, &photo, &labels.map, &colors));
            write_output(&names.overlay, |out| encode_overlay(out, (photo.width, photo.height), &painted))?;
        }
        timings.encode = since(start);
        if labels.regions[0].pixels == labels.map.labels.len() {
            warnings.push("nothing but background was found".into());
        }
        let summary = PhotoSummary {
            file: self.files[index].to_string_lossy().into_owned(),
            width: photo.width,
            height: photo.height,
            crop: options.crop.map(|_| corners(frame.window())),
            model: options.model.clone(),
            classes: ClassSummary::of(&labels.regions, labels.map.labels.len(), options.variant),
            timings_ms: timings,
            warnings,
        };
        write_output(&names.summary, |out| {
            serde_json::to_writer_pretty(&mut *out, &summary)?;
            out.write_all(b"\n")
        })?;
        Ok(summary)
    }

    fn finish(&self, index: usize, result: Result<PhotoSummary, ImageError>) {
        (self.done)(&self.files[index], &result);
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
    }

    fn into_run(self) -> Run {
        let mut finished = self.finished.into_inner().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost.into_inner().unwrap_or_else(PoisonError::into_inner);
        for prepared in self.to_label.into_rest() {
            if !prepared.lost.is_empty() {
                finished[prepared.index] = Some(Err(lost_at(prepared.lost)));
            }
        }
        let unwritten = finished.iter().flatten().any(|result| matches!(result, Err(ImageError::Write { .. })));
        let not_done = || if unwritten || lost.is_empty() { ImageError::NotDone } else { ImageError::NoDeviceLeft };
        let outcomes = finished.into_iter().map(|result| result.unwrap_or_else(|| Err(not_done())));
        Run { outcomes: self.files.iter().cloned().zip(outcomes).collect(), lost }
    }
}

/// The error of a photo that devices were lost at.
fn lost_at(lost: Vec<(String, String)>) -> ImageError {
    let devices = lost.iter().map(|(device, _)| device.as_str()).collect::<Vec<_>>().join(", ");
    let reason = lost.into_iter().next().map(|(_, reason)| reason).unwrap_or_default();
    ImageError::DeviceLost { devices, reason }
}
