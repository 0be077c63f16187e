//! What a run says while it goes on: lines of JSON, one per event, and the same numbers for TensorBoard.

use super::events::Events;
use super::{Recipe, TrainError};
use crate::files::{WriteError, write_atomically};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Name of the log in a run's folder.
pub const LOG: &str = "log.jsonl";

/// A line of the log. Steps count those of the optimizer that are done; scores go from 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// The run began, or was resumed at `step`.
    Start {
        /// Steps done before.
        step: u64,
        /// Processes.
        processes: usize,
        /// What it depends on.
        recipe: Recipe,
    },
    /// Some steps, their losses and norms averaged.
    Steps {
        /// The last of them.
        step: u64,
        /// Its epoch, from 0.
        epoch: u64,
        /// What is minimised.
        loss: f64,
        /// Its parts.
        cross_entropy: f64,
        /// Its parts.
        dice: f64,
        /// Of the last step.
        learning_rate: f64,
        /// Before clipping.
        gradient_norm: f64,
        /// Over all processes.
        images_per_second: f64,
        /// Share of the time in which this process waited for images.
        waiting: f64,
    },
    /// An epoch ended.
    Epoch {
        /// Steps done.
        step: u64,
        /// From 0.
        epoch: u64,
        /// Mean over its steps.
        loss: f64,
        /// Mean over its steps.
        cross_entropy: f64,
        /// Mean over its steps.
        dice: f64,
    },
    /// The network was scored on the validation split.
    Validation {
        /// Steps done.
        step: u64,
        /// From 0.
        epoch: u64,
        /// As the paper has it; none where a class never occurs.
        mean_f1: Option<f64>,
        /// Over the classes that occur.
        mean_f1_of_present: Option<f64>,
        /// Share of pixels with the right label.
        pixel_accuracy: f64,
        /// Background included.
        mean_iou: f64,
        /// Images of the split.
        images: usize,
        /// How long it took.
        seconds: f64,
    },
    /// The run ended or was stopped.
    End {
        /// Steps done.
        step: u64,
        /// Seconds since it began or was resumed.
        seconds: f64,
    },
}

impl Line {
    /// Steps done.
    pub fn step(&self) -> u64 {
        match *self {
            Line::Start { step, .. }
            | Line::Steps { step, .. }
            | Line::Epoch { step, .. }
            | Line::Validation { step, .. }
            | Line::End { step, .. } => step,
        }
    }
}

/// The log of a run, open to be continued.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    events: Events,
    /// All lines so far, those before a resume too.
    pub(super) lines: Vec<Line>,
}

impl Log {
    /// Opens the log of a run that has done `step` steps: what was said about later ones is taken out, since they will be done again.
    pub(super) fn open(folder: &Path, step: u64, start: Line) -> Result<Log, TrainError> {
        let path = folder.join(LOG);
        let failed = |source: io::Error| TrainError::Write { path: path.clone(), source };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        // The last line may be half of one.
        let lines: Vec<Line> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|line: &Line| line.step() <= step && step > 0)
            .collect();
        write_atomically(&path, true, |out| lines.iter().try_for_each(|line| write_line(out, line))).map_err(
            |error| match error {
                WriteError::Io(source) => failed(source),
                WriteError::Exists => failed(io::ErrorKind::AlreadyExists.into()),
            },
        )?;
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        let events = Events::create(folder, step)?;
        let mut log = Log { path, file, events, lines };
        log.write(start)?;
        Ok(log)
    }

    /// Adds a line.
    pub(super) fn write(&mut self, line: Line) -> Result<(), TrainError> {
        write_line(&mut self.file, &line).map_err(|source| TrainError::Write { path: self.path.clone(), source })?;
        self.events.write(line.step(), &scalars(&line))?;
        self.lines.push(line);
        Ok(())
    }
}

fn write_line(out: &mut dyn Write, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    out.write_all(&text)
}

/// What TensorBoard shows of a line.
fn scalars(line: &Line) -> Vec<(&'static str, f64)> {
    match *line {
        Line::Steps { loss, cross_entropy, dice, learning_rate, gradient_norm, images_per_second, .. } => vec![
            ("train/loss", loss),
            ("train/cross_entropy", cross_entropy),
            ("train/dice", dice),
            ("train/learning_rate", learning_rate),
            ("train/gradient_norm", gradient_norm),
            ("train/images_per_second", images_per_second),
        ],
        Line::Epoch { loss, .. } => vec![("epoch/loss", loss)],
        Line::Validation { mean_f1, mean_f1_of_present, pixel_accuracy, mean_iou, .. } => {
            let scores = [
                ("validation/mean_f1", mean_f1),
                ("validation/mean_f1_of_present", mean_f1_of_present),
                ("validation/pixel_accuracy", Some(pixel_accuracy)),
                ("validation/mean_iou", Some(mean_iou)),
            ];
            scores.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
        }
        Line::Start { .. } | Line::End { .. } => Vec::new(),
    }
}
