//! Batches, made by several threads ahead of whoever takes them, in a fixed order.

use super::{DataError, Dataset, Preparation, Sample};
use segface_kernels::image::FaceWarp;
use segface_kernels::{Context, Isa};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// How batches are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderOptions {
    /// How each sample is prepared.
    pub preparation: Preparation,
    /// Samples in a batch; at least 1.
    pub batch: usize,
    /// Whether a last batch that is not full is left out, as the published loaders do; otherwise it comes smaller.
    pub drop_last: bool,
    /// Threads that read and prepare; at least 1. None of them is the caller's.
    pub threads: usize,
    /// Batches that may be begun before the first of them is taken; at least 1. Memory: that many batches.
    pub prefetch: usize,
    /// Instruction set of the image kernels.
    pub isa: Isa,
}

impl LoaderOptions {
    /// The published augmentation, a thread per processor, the last batch smaller.
    pub fn training(dataset: &Dataset, size: (usize, usize), batch: usize, seed: u64) -> Self {
        Self {
            preparation: Preparation::published(dataset, size, seed),
            batch,
            drop_last: false,
            threads: crate::parser::default_threads(),
            prefetch: 3,
            isa: Isa::best(),
        }
    }
}

/// Samples side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// `[n, height, width, 3]`: the network's input, normalised, warped if that was asked for.
    pub images: Vec<f32>,
    /// `[n, height, width]`: class ids or [`super::IGNORE`].
    pub labels: Vec<u8>,
    /// `[n]`: which samples of the data set.
    pub indices: Vec<usize>,
    /// `[n, 5, 2]`: see [`Sample::points`].
    pub points: Vec<[[f32; 2]; 5]>,
    /// `[n]` where images are warped, else empty.
    pub warps: Vec<FaceWarp>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is none, which no loader gives.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// Makes batches of a data set.
#[derive(Debug, Clone)]
pub struct Loader {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
}

impl Loader {
    /// # Panics
    /// If `batch`, `threads` or `prefetch` is 0, or the size is empty.
    pub fn new(dataset: impl Into<Arc<Dataset>>, options: LoaderOptions) -> Loader {
        let (width, height) = options.preparation.size;
        assert!(
            options.batch > 0 && options.threads > 0 && options.prefetch > 0 && width > 0 && height > 0,
            "{options:?}"
        );
        Loader { dataset: dataset.into(), options }
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// How batches are made.
    pub fn options(&self) -> &LoaderOptions {
        &self.options
    }

    /// Starts making the batches of `indices` for `epoch`, in that order.
    pub fn batches(&self, epoch: u64, indices: Vec<usize>) -> Batches {
        let size = self.options.batch;
        let count = if self.options.drop_last { indices.len() / size } else { indices.len().div_ceil(size) };
        let samples = indices.len().min(count * size);
        let shared = Arc::new(Shared {
            dataset: Arc::clone(&self.dataset),
            options: self.options,
            epoch,
            indices,
            samples,
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let workers = (0..self.options.threads.min(samples))
            .map(|number| {
                let shared = Arc::clone(&shared);
                let name = format!("loader-{number}");
                let spawned = std::thread::Builder::new().name(name).spawn(move || shared.work());
                spawned.expect("the operating system gives a thread")
            })
            .collect();
        Batches { shared, count, workers }
    }
}

/// The batches of one epoch, in order. A batch with a sample that cannot be used is an error that names the file; those after it still
/// come. Dropping it stops the threads.
pub struct Batches {
    shared: Arc<Shared>,
    count: usize,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    dataset: Arc<Dataset>,
    options: LoaderOptions,
    epoch: u64,
    indices: Vec<usize>,
    /// How many of `indices` are used.
    samples: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Position in `indices` of the next sample to prepare.
    next: usize,
    /// Batches handed over.
    taken: usize,
    /// Batches begun, the first being number `taken`.
    begun: VecDeque<Pending>,
    stop: bool,
    /// A worker panicked: waiting for it would be for ever.
    died: bool,
}

struct Pending {
    parts: Vec<Option<Result<Sample, DataError>>>,
    missing: usize,
    ready: Option<Result<Batch, DataError>>,
}

/// Tells the consumer when a worker panics.
struct Alarm<'a>(&'a Shared);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().died = true;
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock half-way through a change.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn work(&self) {
        let _alarm = Alarm(self);
        let mut ctx = Context::new(1, self.options.isa);
        while let Some(position) = self.next_position() {
            let index = self.indices[position];
            let sample = self.options.preparation.sample(&mut ctx, &self.dataset, self.epoch, index);
            self.finish(position, sample);
        }
    }

    /// The next sample to prepare, once there is room for its batch; `None` when all are given out or nobody wants them.
    fn next_position(&self) -> Option<usize> {
        let size = self.options.batch;
        let mut state = self.lock();
        loop {
            if state.stop || state.next >= self.samples {
                return None;
            }
            let batch = state.next / size;
            if batch < state.taken + self.options.prefetch {
                if batch == state.taken + state.begun.len() {
                    let len = size.min(self.samples - batch * size);
                    let parts = (0..len).map(|_| None).collect();
                    state.begun.push_back(Pending { parts, missing: len, ready: None });
                }
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.wait(state);
        }
    }

    /// Puts a sample in its place; whoever brings a batch's last one assembles it.
    fn finish(&self, position: usize, sample: Result<Sample, DataError>) {
        let (batch, place) = (position / self.options.batch, position % self.options.batch);
        let parts = {
            let mut state = self.lock();
            let taken = state.taken;
            let pending = &mut state.begun[batch - taken];
            pending.parts[place] = Some(sample);
            pending.missing -= 1;
            if pending.missing > 0 {
                return;
            }
            std::mem::take(&mut pending.parts)
        };
        let first = batch * self.options.batch;
        let assembled = assemble(&self.indices[first..first + parts.len()], parts);
        let mut state = self.lock();
        let taken = state.taken;
        state.begun[batch - taken].ready = Some(assembled);
        self.changed.notify_all();
    }
}

fn assemble(indices: &[usize], parts: Vec<Option<Result<Sample, DataError>>>) -> Result<Batch, DataError> {
    let samples = parts.into_iter().flatten().collect::<Result<Vec<Sample>, DataError>>()?;
    let mut batch = Batch {
        images: Vec::new(),
        labels: Vec::new(),
        indices: indices.to_vec(),
        points: Vec::new(),
        warps: Vec::new(),
    };
    batch.images.reserve_exact(samples.iter().map(|sample| sample.image.len()).sum());
    batch.labels.reserve_exact(samples.iter().map(|sample| sample.labels.len()).sum());
    for sample in samples {
        batch.images.extend_from_slice(&sample.image);
        batch.labels.extend_from_slice(&sample.labels);
        batch.points.push(sample.points);
        batch.warps.extend(sample.warp);
    }
    Ok(batch)
}

impl Iterator for Batches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut state = self.shared.lock();
        loop {
            if state.taken == self.count {
                return None;
            }
            if state.died {
                drop(state);
                self.end();
                return None;
            }
            if let Some(ready) = state.begun.front_mut().and_then(|pending| pending.ready.take()) {
                state.begun.pop_front();
                state.taken += 1;
                self.shared.changed.notify_all();
                return Some(ready);
            }
            state = self.shared.wait(state);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.shared.lock().taken;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches {}

impl Batches {
    /// Stops the threads and waits for them.
    ///
    /// # Panics
    /// If one of them did.
    fn end(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.end();
    }
}
