//! A run from its first step, or the one it was resumed at, to its last.

use super::log::Log;
use super::optimizer::Average;
use super::progress::Progress;
use super::state::{self, State, Tally};
use super::step::{Stepped, Stepper};
use super::validate::validate;
use super::{Engine, Group, Line, Recipe, RunOptions, TrainError, curves, export, initial};
use crate::Error;
use crate::data::{Batches, Dataset, Loader, LoaderOptions, Sampler, Split, Tail};
use crate::image::{prepare_output_folder, write_output};
use std::borrow::Cow;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Steps of the optimizer that are done, those before a resume too.
    pub steps: u64,
    /// Steps of the whole run.
    pub of: u64,
    /// Where it was resumed.
    pub resumed_at: u64,
    /// Seconds since it began or was resumed, validations included.
    pub seconds: f64,
    /// Images per second over all processes while it trained, validations not included.
    pub images_per_second: f64,
    /// Loss of the last line of the log.
    pub loss: Option<f64>,
    /// Mean F1 at the last validation, and the best; over the classes that occur, where some do not.
    pub mean_f1: Option<[f64; 2]>,
    /// The last weights file, if one was written.
    pub weights: Option<PathBuf>,
}

/// Trains. Every process of `group` calls this with an engine of the same network, made for micro-batches of the recipe's size; rank 0 writes
/// everything. When `stop` is set, the run writes its state after the step it is at and returns.
///
/// # Errors
/// Everything that can be wrong with files and data; losses and gradients that are no numbers; other processes that go away.
pub fn train(
    recipe: &Recipe,
    options: &RunOptions,
    engine: &mut dyn Engine,
    group: &mut Group,
    stop: &AtomicBool,
) -> Result<Summary, Error> {
    let lead = group.rank() == 0;
    let _lock = match lead {
        true => {
            prepare_output_folder(&options.folder)?;
            Some(lock(&options.folder)?)
        }
        false => None,
    };
    let variant = recipe.model.variant;
    let dataset = Arc::new(Dataset::open(variant, &options.data, Split::Train)?);
    if dataset.len() != recipe.images || recipe.steps_per_epoch() == 0 {
        let Recipe { replicas, batch, .. } = *recipe;
        let needed = replicas * (batch - 1) + 1;
        return Err(
            TrainError::TooFew { folder: options.data.clone(), found: dataset.len(), needed, replicas, batch }.into()
        );
    }
    let validation = match lead && options.validate_epochs > 0 {
        true => Some(Arc::new(Dataset::open(variant, &options.data, Split::Val)?)),
        false => None,
    };
    let saved = if lead { find_state(recipe, options, engine)? } else { None };
    let (parameters, buffers) = match &saved {
        Some(state) => (state.parameters.to_vec(), state.buffers.to_vec()),
        None if lead => initial(engine.layout(), &options.start, recipe.seed)?,
        None => (engine.parameters().to_vec(), engine.buffers().to_vec()),
    };
    engine.parameters_mut().copy_from_slice(&parameters);
    engine.buffers_mut().copy_from_slice(&buffers);
    drop((parameters, buffers));
    group.broadcast(engine.parameters_mut())?;
    group.broadcast(engine.buffers_mut())?;
    let mut begin = [saved.as_ref().map_or(0.0, |state| state.step as f64)];
    group.sum(&mut begin)?;
    let step = begin[0] as u64;

    let size = (recipe.resolution, recipe.resolution);
    let loader = LoaderOptions {
        drop_last: true,
        threads: options.workers,
        preparation: recipe.augment.preparation(&dataset, size, recipe.seed),
        ..LoaderOptions::training(&dataset, size, recipe.batch, recipe.seed)
    };
    let loader = Loader::new(Arc::clone(&dataset), loader);
    let mut stepper = Stepper::new(recipe, engine, group, &dataset, options, stop);
    let mut tally = Tally::default();
    if let Some(state) = saved {
        stepper.optimizer.moments = state.moments.map(Cow::into_owned);
        if let (Some(average), Some(values)) = (&mut stepper.average, state.average) {
            average.values = values.map(Cow::into_owned);
        }
        tally = state.tally;
    }
    if step > 0 {
        for moments in &mut stepper.optimizer.moments {
            stepper.group.broadcast(moments)?;
        }
        if let Some(Average { values, .. }) = &mut stepper.average {
            values.iter_mut().try_for_each(|values| stepper.group.broadcast(values))?;
        }
    }
    let log = match lead {
        true => {
            let processes = stepper.group.size();
            Some(Log::open(&options.folder, step, Line::Start { step, processes, recipe: recipe.clone() })?)
        }
        false => None,
    };
    let mut run = Run {
        recipe,
        options,
        stepper,
        loader,
        validation,
        log,
        progress: Progress::new(recipe, step, lead && options.progress, options.most_images_per_second),
        tally,
        step,
        resumed_at: step,
        begin: Instant::now(),
        aside: Duration::ZERO,
        since_line: (Instant::now(), Duration::ZERO, 0),
        weights: None,
    };
    run.go()?;
    run.end()
}

/// Keeps a second run out of the folder. The system gives the lock back however this process ends.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("run.lock");
    let failed = |source| TrainError::Write { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            remove_halves(folder);
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            Err(TrainError::Options(format!("another process is training in {}", folder.display())).into())
        }
        Err(TryLockError::Error(source)) => Err(failed(source).into()),
    }
}

/// Takes away what a process that died was writing under names of its own.
fn remove_halves(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(".segface-") && name.ends_with(".tmp") {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn find_state(
    recipe: &Recipe,
    options: &RunOptions,
    engine: &dyn Engine,
) -> Result<Option<State<'static>>, TrainError> {
    let folder = &options.folder;
    if !options.resume {
        return if state::exists(folder) { Err(TrainError::Exists { folder: folder.clone() }) } else { Ok(None) };
    }
    match state::load(folder, recipe, engine.layout())? {
        Some(state) => Ok(Some(state)),
        None => Err(TrainError::NothingToResume { folder: folder.clone() }),
    }
}

struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a RunOptions,
    stepper: Stepper<'a>,
    loader: Loader,
    validation: Option<Arc<Dataset>>,
    /// Rank 0's.
    log: Option<Log>,
    progress: Progress,
    tally: Tally,
    /// Steps done.
    step: u64,
    resumed_at: u64,
    begin: Instant,
    /// Time that was not spent on training.
    aside: Duration,
    /// When the last line was written, the time waited for images and the steps taken since.
    since_line: (Instant, Duration, u64),
    weights: Option<PathBuf>,
}

impl Run<'_> {
    fn go(&mut self) -> Result<(), Error> {
        let (per_epoch, total) = (self.recipe.steps_per_epoch(), self.recipe.steps());
        let last = self.options.stop_after.map_or(total, |stop| stop.min(total));
        while self.step < last {
            let epoch = self.step / per_epoch;
            let mut batches = self.batches(epoch, self.step % per_epoch);
            while self.step / per_epoch == epoch && self.step < last {
                let stepped = self.stepper.step(self.step, &mut batches)?;
                self.step += 1;
                self.note(epoch, &stepped)?;
                let ended = self.step.is_multiple_of(per_epoch);
                if ended {
                    self.end_epoch(epoch)?;
                }
                let due = self.options.save_steps > 0 && self.step.is_multiple_of(self.options.save_steps);
                if ended || due || stepped.stop || self.step == last {
                    self.save()?;
                }
                if stepped.stop {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// This process's batches of an epoch from step `from` of it on: of each step, those of its replicas.
    fn batches(&self, epoch: u64, from: u64) -> Batches {
        let Recipe { replicas, batch, seed, images, .. } = *self.recipe;
        let own = self.stepper.own();
        let first = self.stepper.group.rank() * own;
        let dealt: Vec<Vec<usize>> = (first..first + own)
            .map(|rank| {
                let sampler = Sampler { len: images, rank, world_size: replicas, seed, shuffle: true, tail: Tail::Pad };
                sampler.indices(epoch)
            })
            .collect();
        let mut indices = Vec::new();
        for step in from as usize..self.recipe.steps_per_epoch() as usize {
            for dealt in &dealt {
                indices.extend_from_slice(&dealt[step * batch..(step + 1) * batch]);
            }
        }
        self.loader.batches(epoch, indices)
    }

    /// Adds a step to the sums, and writes a line when it is time.
    fn note(&mut self, epoch: u64, stepped: &Stepped) -> Result<(), Error> {
        let Stepped { cross_entropy, dice, learning_rate, norm, waited, .. } = *stepped;
        let [steps, sums @ ..] = &mut self.tally.since_line;
        *steps += 1;
        add(sums, [cross_entropy, dice, norm]);
        let [steps, sums @ ..] = &mut self.tally.this_epoch;
        *steps += 1;
        add(sums, [cross_entropy, dice]);
        self.since_line.1 += waited;
        self.since_line.2 += 1;
        self.progress.step(self.step, epoch, 0.5 * cross_entropy + 0.5 * dice);
        if self.step.is_multiple_of(self.options.log_steps) {
            self.write_steps(epoch, learning_rate)?;
        }
        Ok(())
    }

    fn write_steps(&mut self, epoch: u64, learning_rate: f64) -> Result<(), Error> {
        let [steps, sums @ ..] = std::mem::take(&mut self.tally.since_line);
        let [cross_entropy, dice, gradient_norm] = sums.map(|sum| f64::from_bits(sum) / steps as f64);
        let (since, waited, taken) = std::mem::replace(&mut self.since_line, (Instant::now(), Duration::ZERO, 0));
        let seconds = since.elapsed().as_secs_f64();
        let images = taken * self.images_per_step();
        let Some(log) = &mut self.log else { return Ok(()) };
        log.write(Line::Steps {
            step: self.step,
            epoch,
            loss: 0.5 * cross_entropy + 0.5 * dice,
            cross_entropy,
            dice,
            learning_rate,
            gradient_norm,
            images_per_second: images as f64 / seconds,
            waiting: waited.as_secs_f64() / seconds,
        })?;
        Ok(())
    }

    fn images_per_step(&self) -> u64 {
        (self.recipe.replicas * self.recipe.batch) as u64
    }

    /// Writes the epoch's line, scores the network and writes weights and curves when it is time.
    fn end_epoch(&mut self, epoch: u64) -> Result<(), Error> {
        let [steps, sums @ ..] = std::mem::take(&mut self.tally.this_epoch);
        let [cross_entropy, dice] = sums.map(|sum| f64::from_bits(sum) / steps as f64);
        let begin = Instant::now();
        let loss = 0.5 * cross_entropy + 0.5 * dice;
        let final_epoch = epoch + 1 == self.recipe.epochs;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.write(Line::Epoch { step: self.step, epoch, loss, cross_entropy, dice })?;
        self.progress.epoch(epoch, loss);
        let due = |every: u64| every > 0 && (epoch + 1).is_multiple_of(every);
        if self.validation.is_some() && (due(self.options.validate_epochs) || final_epoch) {
            self.validate(epoch)?;
        }
        if due(self.options.save_epochs) || final_epoch {
            let path = self.options.folder.join(format!("model_{epoch}.safetensors"));
            self.export(&path)?;
            self.weights = Some(path);
        }
        self.draw()?;
        let aside = begin.elapsed();
        self.aside += aside;
        // So that speeds are those of training.
        self.since_line.0 += aside;
        Ok(())
    }

    /// Parameters and buffers to be looked at: the averages where they are kept, else the present ones.
    fn shown(&self) -> [&[f32]; 2] {
        match &self.stepper.average {
            Some(average) => [&average.values[0], &average.values[1]],
            None => [self.stepper.engine.parameters(), self.stepper.engine.buffers()],
        }
    }

    fn validate(&mut self, epoch: u64) -> Result<(), Error> {
        let Some(dataset) = &self.validation else { return Ok(()) };
        let layout = self.stepper.engine.layout();
        let resolution = self.recipe.resolution;
        let line = validate(dataset, self.options, layout, resolution, self.shown(), [self.step, epoch])?;
        if let Line::Validation { mean_f1, mean_f1_of_present, .. } = line {
            let f1 = mean_f1.or(mean_f1_of_present).unwrap_or(0.0);
            self.progress.validated(epoch, f1);
            if self.tally.best_f1.is_none_or(|best| f1 > f64::from_bits(best)) {
                self.tally.best_f1 = Some(f1.to_bits());
                self.export(&self.options.folder.join("model_best.safetensors"))?;
            }
        }
        if let Some(log) = &mut self.log {
            log.write(line)?;
        }
        Ok(())
    }

    fn export(&self, path: &Path) -> Result<(), Error> {
        let [parameters, buffers] = self.shown();
        export::export(path, self.stepper.engine.layout(), self.recipe.resolution, parameters, buffers)
    }

    fn draw(&self) -> Result<(), Error> {
        let Some(log) = &self.log else { return Ok(()) };
        let title = format!("{}, {} px, {} images", self.recipe.model, self.recipe.resolution, self.recipe.images);
        let (png, svg) = (curves::png(&title, &log.lines)?, curves::svg(&title, &log.lines)?);
        write_output(&self.options.folder.join("curves.png"), |out| png.encode(out))?;
        write_output(&self.options.folder.join("curves.svg"), |out| out.write_all(svg.as_bytes()))?;
        Ok(())
    }

    fn save(&mut self) -> Result<(), Error> {
        if self.log.is_none() {
            return Ok(());
        }
        let begin = Instant::now();
        let engine = &*self.stepper.engine;
        let state = State {
            step: self.step,
            parameters: Cow::Borrowed(engine.parameters()),
            buffers: Cow::Borrowed(engine.buffers()),
            moments: self.stepper.optimizer.moments.each_ref().map(|values| Cow::Borrowed(&values[..])),
            average: self
                .stepper
                .average
                .as_ref()
                .map(|average| average.values.each_ref().map(|v| Cow::Borrowed(&v[..]))),
            tally: self.tally,
        };
        state.save(&self.options.folder, self.recipe, engine.layout())?;
        let aside = begin.elapsed();
        self.aside += aside;
        self.since_line.0 += aside;
        Ok(())
    }

    fn end(mut self) -> Result<Summary, Error> {
        let elapsed = self.begin.elapsed();
        let trained = (elapsed - self.aside.min(elapsed)).as_secs_f64();
        let images = (self.step - self.resumed_at) * self.images_per_step();
        self.progress.end();
        if self.log.is_some() {
            self.draw()?;
        }
        let (mut loss, mut last_f1) = (None, None);
        if let Some(log) = &mut self.log {
            log.write(Line::End { step: self.step, seconds: elapsed.as_secs_f64() })?;
            for line in &log.lines {
                match *line {
                    Line::Steps { loss: value, .. } => loss = Some(value),
                    Line::Validation { mean_f1, mean_f1_of_present, .. } => last_f1 = mean_f1.or(mean_f1_of_present),
                    _ => {}
                }
            }
        }
        Ok(Summary {
            steps: self.step,
            of: self.recipe.steps(),
            resumed_at: self.resumed_at,
            seconds: elapsed.as_secs_f64(),
            images_per_second: if trained > 0.0 { images as f64 / trained } else { 0.0 },
            loss,
            mean_f1: last_f1.map(|last| [last, self.tally.best_f1.map_or(last, f64::from_bits)]),
            weights: self.weights,
        })
    }
}

/// Adds to sums that are kept as bits.
fn add<const N: usize>(sums: &mut [u64; N], values: [f64; N]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = (f64::from_bits(*sum) + value).to_bits();
    }
}
