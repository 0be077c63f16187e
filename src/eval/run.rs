//! A network over a whole split.

use super::{Confusion, Shown};
use crate::Error;
use crate::data::{Batch, Dataset, Loader, LoaderOptions, Preparation};
use crate::engine::{CpuEngine, Engine};
use crate::parser::Parser;
use segface_codegen::Variant;
use segface_codegen::ir::Output;
use segface_kernels::Context;
use segface_kernels::image::{FaceWarp, LabelResizer, Resampler, Window, argmax_labels};
use std::sync::{Arc, Mutex, MutexGuard};

/// How a network did on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageScore {
    /// Which image of the data set.
    pub index: usize,
    /// Mean F1 over the classes but the background that occur in truth or prediction; 1 where none does.
    pub mean_f1: f64,
}

/// How a network did on a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Over all pixels of all images.
    pub confusion: Confusion,
    /// In the order of the data set.
    pub images: Vec<ImageScore>,
}

impl Evaluation {
    /// Indices into `images`, the worst first; equal ones in order.
    pub fn worst(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by(|&a, &b| self.images[a].mean_f1.total_cmp(&self.images[b].mean_f1));
        order.truncate(count);
        order
    }
}

/// Whether a network of one label set can be scored on data of another: where the classes are the same, which LaPa's and Helen's are.
pub fn same_classes(a: Variant, b: Variant) -> bool {
    a.classes() == b.classes()
}

/// Runs the network over every image of `dataset` while `loader_threads` threads read ahead. On the CPU, `engines` of them run side by side,
/// each with the parser's number of threads and the same constants; a CUDA device gets one. Results depend on none of this.
///
/// As published: images resized to the network's input, logits bilinearly to that size, first index of the largest. Images are warped
/// if the network is LaPa's. `progress` hears how many images are done after each batch.
///
/// # Errors
/// The first file that cannot be used, or what a device reports.
///
/// # Panics
/// If the classes of network and data differ ([`same_classes`]).
pub fn evaluate(
    dataset: &Arc<Dataset>,
    parser: &mut Parser,
    engines: usize,
    loader_threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Evaluation, Error> {
    let (model, isa) = (parser.model(), parser.isa());
    assert!(same_classes(model.variant, dataset.variant()), "{} on {}", model.variant, dataset.variant());
    let [batch, height, width] = parser.input_shape();
    // A device leaves the CPU to what follows the network.
    let own_threads = parser.threads();
    let (threads, others) = match parser.engine() {
        Engine::Cpu(engine) => {
            let others = (1..engines).map(|_| engine.another(own_threads));
            (own_threads, others.collect::<Result<Vec<CpuEngine>, _>>()?)
        }
        Engine::Cuda(_) => (loader_threads, Vec::new()),
    };
    let options = LoaderOptions {
        preparation: Preparation::plain(model.variant, (width, height)),
        batch,
        drop_last: false,
        threads: loader_threads,
        prefetch: others.len() + 3,
        isa,
    };
    let loader = Loader::new(Arc::clone(dataset), options);
    let batches = Mutex::new(loader.batches(0, (0..dataset.len()).collect()));
    let results: Mutex<Vec<(usize, Confusion)>> = Mutex::new(Vec::with_capacity(dataset.len()));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let work = |engine: &mut Engine| {
        let mut ctx = Context::new(threads, isa);
        while lock(&failure).is_none() {
            let Some(batch) = lock(&batches).next() else { return };
            let scored = batch.map_err(Error::from).and_then(|batch| score(engine, &mut ctx, &batch));
            match scored {
                Ok(scored) => {
                    let mut results = lock(&results);
                    results.extend(scored);
                    progress(results.len());
                }
                Err(error) => {
                    lock(&failure).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for engine in others {
            let work = &work;
            scope.spawn(move || work(&mut Engine::Cpu(engine)));
        }
        work(parser.engine());
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    let mut confusion = Confusion::new(dataset.variant().classes().len());
    let mut images = Vec::with_capacity(results.len());
    for (index, of_image) in results {
        confusion.merge(&of_image);
        images.push(ImageScore { index, mean_f1: of_image.mean_f1_of_present().unwrap_or(1.0) });
    }
    Ok(Evaluation { confusion, images })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in one thread ends the run anyhow, once the others are done.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Labels and counts one batch.
fn score(engine: &mut Engine, ctx: &mut Context, batch: &Batch) -> Result<Vec<(usize, Confusion)>, Error> {
    let classes = engine.model().variant.classes().len();
    let predictions = predict(engine, ctx, &batch.images, &batch.warps, batch.len())?;
    let truths = batch.labels.chunks_exact(batch.labels.len() / batch.len());
    let counted = batch.indices.iter().zip(truths).zip(predictions).map(|((&index, truth), prediction)| {
        let mut confusion = Confusion::new(classes);
        confusion.add(truth, &prediction);
        (index, confusion)
    });
    Ok(counted.collect())
}

/// Labels of `count` images, at most the engine's batch; what is missing is made up and thrown away.
fn predict(
    engine: &mut Engine,
    ctx: &mut Context,
    images: &[f32],
    warps: &[FaceWarp],
    count: usize,
) -> Result<Vec<Vec<u8>>, Error> {
    let shape = engine.input_shape();
    let size = (shape[2], shape[1]);
    let len = shape.iter().product();
    if images.len() == len {
        engine.run(images)?;
    } else {
        let mut filled = images.to_vec();
        filled.resize(len, 0.0);
        engine.run(&filled)?;
    }
    let own = engine.output_shape(Output::Logits).map_or((0, 0), |shape| (shape[2], shape[1]));
    let logits = engine.logits()?;
    let classes = logits.len() / (shape[0] * own.0 * own.1);
    let each = logits.chunks_exact(own.0 * own.1 * classes).take(count).enumerate();
    Ok(each.map(|(place, logits)| labels(ctx, logits, own, size, classes, warps.get(place))).collect())
}

/// Labels at `size` from logits `[h, w, classes]` of size `own`, both (width, height).
fn labels(
    ctx: &mut Context,
    logits: &[f32],
    own: (usize, usize),
    size: (usize, usize),
    classes: usize,
    warp: Option<&FaceWarp>,
) -> Vec<u8> {
    let mut labels = vec![0; size.0 * size.1];
    match warp {
        Some(warp) => {
            let mut flat = vec![0f32; size.0 * size.1 * classes];
            warp.unwarp(ctx, logits, own, classes, &mut flat);
            argmax_labels(ctx, &flat, classes, &mut labels);
        }
        None if own == size => argmax_labels(ctx, logits, classes, &mut labels),
        None => {
            LabelResizer::new(own, size, classes).run(ctx, logits, &mut labels, size.0, Window::whole(size.0, size.1));
        }
    }
    labels
}

/// Labels some images once more, to be looked at.
///
/// # Errors
/// As [`evaluate`].
pub fn show(dataset: &Dataset, parser: &mut Parser, scores: &[&ImageScore]) -> Result<Vec<Shown>, Error> {
    let mut ctx = Context::new(parser.threads(), parser.isa());
    let [_, height, width] = parser.input_shape();
    let preparation = Preparation::plain(parser.model().variant, (width, height));
    let mut shown = Vec::with_capacity(scores.len());
    for score in scores {
        let raw = dataset.read(score.index)?;
        let resampler = Resampler::new((raw.window.width, raw.window.height), (width, height));
        let photo = resampler.resize(&mut ctx, raw.photo.view().window(raw.window));
        let sample = preparation.prepare(&mut ctx, dataset, score.index, raw, None)?;
        let warps: Vec<FaceWarp> = sample.warp.into_iter().collect();
        let prediction = predict(parser.engine(), &mut ctx, &sample.image, &warps, 1)?.remove(0);
        shown.push(Shown {
            name: dataset.name(score.index),
            mean_f1: score.mean_f1,
            width,
            height,
            photo,
            truth: sample.labels,
            prediction,
        });
    }
    Ok(shown)
}
