//! Many photos through one network: decoding the next one and writing the last one run beside the network.

use super::{
    ClassSummary, Crop, Frame, ImageError, LabelMap, Landmarks, ModelSummary, OutputNames, Photo, PhotoSummary,
    Timings, decode_file, encode_labels, encode_overlay, palette, summary::corners, write_output,
};
use segface_codegen::Variant;
use segface_kernels::{Context, Isa};
use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Instant,
};

/// Computes logits from a normalised input `[height, width, 3]` and hands them on. An error ends the run.
pub type Network<'a, E> = dyn FnMut(&[f32], &mut Take<'_>) -> Result<(), E> + 'a;

/// Takes logits `[h, w, classes]` with their size (w, h).
pub type Take<'a> = dyn FnMut(&[f32], (usize, usize)) + 'a;

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
    /// Threads for what follows the network. Decoding and writing have one each of their own.
    pub threads: usize,
}

/// One photo and what became of it.
pub type Outcome = (PathBuf, Result<PhotoSummary, ImageError>);

/// A photo on its way to the network.
struct Prepared {
    photo: Photo,
    frame: Frame,
    input: Vec<f32>,
    timings: Timings,
    warnings: Vec<String>,
}

/// A photo on its way to the disk.
struct Labelled {
    photo: Photo,
    frame: Frame,
    map: LabelMap,
    classes: Vec<ClassSummary>,
    timings: Timings,
    warnings: Vec<String>,
}

/// Parses `files[i]` into `names[i]`. A photo that cannot be read or does not fit is passed over; `done` hears of each, from
/// another thread, as it is finished. When a result cannot be written the run stops: the next one could not either.
///
/// At most four decoded photos are in memory at a time.
///
/// # Errors
/// What the network reports. Outcomes of photos, in the order of `files`, are in the `Ok`.
///
/// # Panics
/// If `files` and `names` differ in length, or the network's logits are not of the promised size.
pub fn parse_photos<E>(
    files: &[PathBuf],
    names: &[OutputNames],
    options: &ParseOptions<'_>,
    network: &mut Network<'_, E>,
    done: &(dyn Fn(&Path, &Result<PhotoSummary, ImageError>) + Sync),
) -> Result<Vec<Outcome>, E> {
    assert_eq!(files.len(), names.len());
    let stop = AtomicBool::new(false);
    let (to_network, prepared) = sync_channel(1);
    let (to_disk, labelled) = sync_channel(0);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| prepare_all(files, options, &stop, to_network));
        let writer = scope.spawn(|| write_all(files, names, options, &stop, labelled, done));
        // Dropping both channels at the end of this call, also after an error, lets the threads end.
        let ran = run_network(prepared, options, &stop, network, to_disk);
        let finished = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ran.map(|()| finished)
    })?;
    let outcomes = finished.into_iter().map(|result| result.unwrap_or(Err(ImageError::NotDone)));
    Ok(files.iter().cloned().zip(outcomes).collect())
}

/// Milliseconds since `start`, in hundredths.
fn since(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1e5).round() / 100.0
}

type Step<T> = (usize, Result<T, ImageError>);

fn prepare_all(
    files: &[PathBuf],
    options: &ParseOptions<'_>,
    stop: &AtomicBool,
    to_network: SyncSender<Step<Prepared>>,
) {
    let mut ctx = Context::new(1, options.isa);
    for (index, file) in files.iter().enumerate() {
        let result = prepare(&mut ctx, file, options);
        if stop.load(Ordering::Relaxed) || to_network.send((index, result)).is_err() {
            return;
        }
    }
}

fn prepare(ctx: &mut Context, file: &Path, options: &ParseOptions<'_>) -> Result<Prepared, ImageError> {
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
    let mut input = vec![0f32; 3 * width * height];
    frame.input(ctx, &photo, &mut input);
    let timings = Timings { decode, prepare: since(start), ..Timings::default() };
    Ok(Prepared { photo, frame, input, timings, warnings })
}

fn run_network<E>(
    prepared: Receiver<Step<Prepared>>,
    options: &ParseOptions<'_>,
    stop: &AtomicBool,
    network: &mut Network<'_, E>,
    to_disk: SyncSender<Step<Labelled>>,
) -> Result<(), E> {
    let mut ctx = Context::new(options.threads, options.isa);
    let count = options.variant.classes().len();
    for (index, result) in prepared {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let result = match result {
            Err(error) => Err(error),
            Ok(Prepared { photo, frame, input, mut timings, warnings }) => {
                let start = Instant::now();
                let mut map = None;
                network(&input, &mut |logits, size| {
                    timings.network = since(start);
                    let start = Instant::now();
                    let labels = frame.labels(&mut ctx, logits, size, count);
                    let classes = ClassSummary::of(&labels, options.variant);
                    timings.labels = since(start);
                    map = Some((labels, classes));
                })?;
                let (map, classes) = map.expect("a network that succeeds hands over its logits");
                Ok(Labelled { photo, frame, map, classes, timings, warnings })
            }
        };
        if to_disk.send((index, result)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn write_all(
    files: &[PathBuf],
    names: &[OutputNames],
    options: &ParseOptions<'_>,
    stop: &AtomicBool,
    labelled: Receiver<Step<Labelled>>,
    done: &(dyn Fn(&Path, &Result<PhotoSummary, ImageError>) + Sync),
) -> Vec<Option<Result<PhotoSummary, ImageError>>> {
    let mut ctx = Context::new(1, options.isa);
    let mut finished: Vec<_> = files.iter().map(|_| None).collect();
    for (index, step) in labelled {
        let result = step.and_then(|labelled| write_one(&mut ctx, &files[index], &names[index], options, labelled));
        let hopeless = matches!(result, Err(ImageError::Write { .. }));
        done(&files[index], &result);
        finished[index] = Some(result);
        if hopeless {
            stop.store(true, Ordering::Relaxed);
            break;
        }
    }
    finished
}

fn write_one(
    ctx: &mut Context,
    file: &Path,
    names: &OutputNames,
    options: &ParseOptions<'_>,
    labelled: Labelled,
) -> Result<PhotoSummary, ImageError> {
    let Labelled { photo, frame, map, classes, mut timings, mut warnings } = labelled;
    let start = Instant::now();
    let colors = palette(options.variant);
    write_output(&names.labels, |out| encode_labels(out, &map, &colors))?;
    if options.overlay {
        write_output(&names.overlay, |out| encode_overlay(ctx, out, &photo, &map, &colors))?;
    }
    timings.encode = since(start);
    if classes[0].pixels == map.labels.len() {
        warnings.push("nothing but background was found".into());
    }
    let summary = PhotoSummary {
        file: file.to_string_lossy().into_owned(),
        width: photo.width,
        height: photo.height,
        crop: options.crop.map(|_| corners(frame.window())),
        model: options.model.clone(),
        classes,
        timings_ms: timings,
        warnings,
    };
    write_output(&names.summary, |out| {
        serde_json::to_writer_pretty(&mut *out, &summary)?;
        out.write_all(b"\n")
    })?;
    Ok(summary)
}
