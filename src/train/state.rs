//! The state of a run on disk: everything that is needed to go on, bit for bit.
//!
//! A safetensors file with the tensors `parameter/NAME`, `buffer/NAME`, `first_moment/NAME`, `second_moment/NAME` and, where a moving
//! average is kept, `average/NAME`; in its metadata the recipe, the step and a checksum of all of it.
//!
//! Writing takes three steps: the new state is written under a name of its own and brought to disk, the present one becomes the previous,
//! the new one the present. Whenever the process dies, one of the three files is whole, and the furthest whole one is resumed from.

use super::{Layout, Recipe, TrainError};
use crate::files::{WriteError, write_atomically};
use crate::weights::{Checkpoint, DType, View, write_views};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Name of the state in a run's folder.
pub const STATE: &str = "state.safetensors";
/// The one before it.
pub const PREVIOUS: &str = "state.previous.safetensors";
/// The next one, whole, but not renamed yet.
const NEXT: &str = "state.next.safetensors";

/// Version of the format, refused if it is another.
const VERSION: &str = "1";

/// Flat arrays of a run, in the order of its layout.
#[derive(Debug, Clone, PartialEq)]
pub struct State<'a> {
    /// Steps of the optimizer that are done.
    pub step: u64,
    /// Parameters.
    pub parameters: Cow<'a, [f32]>,
    /// Buffers.
    pub buffers: Cow<'a, [f32]>,
    /// AdamW's m and v.
    pub moments: [Cow<'a, [f32]>; 2],
    /// Moving averages of parameters and buffers.
    pub average: Option<[Cow<'a, [f32]>; 2]>,
    /// What has been summed for the log.
    pub tally: Tally,
}

/// Sums for what is logged, kept over a resume. Numbers are stored as their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Steps since the last line of the log, their cross-entropies, dice losses and gradient norms added up.
    pub since_line: [u64; 4],
    /// Steps of this epoch, their cross-entropies and dice losses added up.
    pub this_epoch: [u64; 3],
    /// The best mean F1 at validation so far, if there was one.
    pub best_f1: Option<u64>,
}

impl State<'_> {
    /// Its parts by name: entry names' prefix, whether it is of the buffers, values.
    fn parts(&self) -> Vec<(&'static str, bool, &[f32])> {
        let mut parts = vec![
            ("parameter", false, &*self.parameters),
            ("buffer", true, &self.buffers),
            ("first_moment", false, &self.moments[0]),
            ("second_moment", false, &self.moments[1]),
        ];
        if let Some([parameters, buffers]) = &self.average {
            parts.extend([("average", false, &**parameters), ("average", true, buffers)]);
        }
        parts
    }

    fn checksum(&self, recipe: &str, layout: &Layout) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(recipe.as_bytes());
        hasher.update(&self.step.to_le_bytes());
        for (_, buffers, values) in self.parts() {
            for (_, _, range) in entries(layout, buffers) {
                hasher.update(bytemuck::cast_slice(&values[range]));
            }
        }
        hasher.finalize()
    }

    /// Makes this the present state in `folder`. If that fails, those that were there still are.
    ///
    /// # Errors
    /// [`TrainError::Write`]: no permission, a full disk.
    pub fn save(&self, folder: &Path, recipe: &Recipe, layout: &Layout) -> Result<(), TrainError> {
        let [present, next] = [STATE, NEXT].map(|name| folder.join(name));
        let failed = |source: io::Error| TrainError::Write { path: present.clone(), source };
        let recipe = serde_json::to_string(recipe).map_err(|error| failed(error.into()))?;
        let tally = serde_json::to_string(&self.tally).map_err(|error| failed(error.into()))?;
        let checksum = self.checksum(&recipe, layout).to_string();
        let metadata = BTreeMap::from(
            [
                ("segface_state_version", VERSION.to_owned()),
                ("recipe", recipe),
                ("step", self.step.to_string()),
                ("tally", tally),
                ("crc32", checksum),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let mut views = Vec::new();
        for (prefix, buffers, values) in self.parts() {
            for (name, shape, range) in entries(layout, buffers) {
                let bytes = bytemuck::cast_slice(&values[range]);
                views.push(View { name: format!("{prefix}/{name}"), dtype: DType::F32, shape, bytes });
            }
        }
        write_atomically(&next, true, |out| write_views(out, views, &metadata)).map_err(|error| match error {
            WriteError::Io(source) => failed(source),
            WriteError::Exists => failed(io::ErrorKind::AlreadyExists.into()),
        })?;
        promote(folder).map_err(failed)
    }
}

/// The present state becomes the previous one, the next the present.
fn promote(folder: &Path) -> io::Result<()> {
    let [present, previous, next] = [STATE, PREVIOUS, NEXT].map(|name| folder.join(name));
    match fs::rename(&present, &previous) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::rename(&next, &present)?,
    }
    // Names are on disk once their folder is; where folders cannot be synced, the system does it in its time.
    if let Ok(folder) = fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The furthest whole state in `folder`, if there is any. One that was whole but not renamed yet is made the present one.
///
/// # Errors
/// [`TrainError::State`] if it is of another run, or if there are states and none of them is whole.
pub fn load(folder: &Path, recipe: &Recipe, layout: &Layout) -> Result<Option<State<'static>>, TrainError> {
    let mut found: Vec<(u64, PathBuf, Checkpoint)> = Vec::new();
    let mut damaged = None;
    for path in candidates(folder) {
        match open(&path) {
            Ok((step, checkpoint)) => found.push((step, path, checkpoint)),
            Err(reason) => {
                tracing::warn!("{}: {reason}", path.display());
                damaged.get_or_insert(TrainError::State { file: path, reason });
            }
        }
    }
    found.sort_by_key(|(step, ..)| std::cmp::Reverse(*step));
    for (step, file, checkpoint) in found {
        let differences = differences(&checkpoint.metadata["recipe"], recipe);
        if !differences.is_empty() {
            let reason = format!(
                "it is the state of a run with other options: {}. Give the same ones, or start a new run from its weights (--init)",
                differences.join("; ")
            );
            return Err(TrainError::State { file, reason });
        }
        match read(step, &checkpoint, recipe, layout) {
            Ok(state) => {
                if file.ends_with(NEXT) {
                    promote(folder).map_err(|source| TrainError::Write { path: folder.join(STATE), source })?;
                }
                return Ok(Some(state));
            }
            Err(reason) => {
                tracing::warn!("{}: {reason}", file.display());
                damaged.get_or_insert(TrainError::State { file, reason });
            }
        }
    }
    damaged.map_or(Ok(None), Err)
}

/// The recipe of the furthest state in `folder` that can be opened, if there is any.
pub fn recipe_of(folder: &Path) -> Option<Recipe> {
    let opened = candidates(folder).into_iter().filter_map(|path| open(&path).ok());
    let (_, checkpoint) = opened.max_by_key(|(step, _)| *step)?;
    serde_json::from_str(checkpoint.metadata.get("recipe")?).ok()
}

/// Whether a folder holds a state, whole or not.
pub(super) fn exists(folder: &Path) -> bool {
    !candidates(folder).is_empty()
}

fn candidates(folder: &Path) -> Vec<PathBuf> {
    let all = [STATE, NEXT, PREVIOUS].map(|name| folder.join(name));
    all.into_iter().filter(|path| path.symlink_metadata().is_ok()).collect()
}

/// Reads the header of a state.
fn open(path: &Path) -> Result<(u64, Checkpoint), String> {
    let checkpoint = Checkpoint::open(path).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    match checkpoint.metadata.get("segface_state_version").map(String::as_str) {
        Some(VERSION) => {}
        Some(other) => return Err(format!("it is a state of format {other}, this program reads {VERSION}")),
        None => {
            return Err(
                "it is no state of a run (weights alone cannot be resumed from; start from them with --init)".into()
            );
        }
    }
    if !checkpoint.metadata.contains_key("recipe") {
        return Err("it lacks the recipe of its run".into());
    }
    let step = checkpoint.metadata.get("step").and_then(|step| step.parse().ok());
    Ok((step.ok_or("it lacks its step")?, checkpoint))
}

fn read(step: u64, checkpoint: &Checkpoint, recipe: &Recipe, layout: &Layout) -> Result<State<'static>, String> {
    let array = |prefix: &str, buffers: bool| -> Result<Cow<'static, [f32]>, String> {
        let mut values = vec![0.0; if buffers { layout.buffers_len() } else { layout.parameters_len() }];
        for (name, shape, range) in entries(layout, buffers) {
            let name = format!("{prefix}/{name}");
            let tensor = checkpoint.tensors.get(&name).ok_or_else(|| format!("it lacks the tensor `{name}`"))?;
            if tensor.shape() != shape || tensor.dtype() != DType::F32 {
                let (dtype, found) = (tensor.dtype(), tensor.shape());
                return Err(format!("`{name}` is {dtype} {found:?}, expected float32 {shape:?}"));
            }
            values[range].copy_from_slice(&tensor.values());
            tensor.release();
        }
        Ok(Cow::Owned(values))
    };
    let tally = checkpoint.metadata.get("tally").and_then(|tally| serde_json::from_str(tally).ok());
    let state = State {
        step,
        parameters: array("parameter", false)?,
        buffers: array("buffer", true)?,
        moments: [array("first_moment", false)?, array("second_moment", false)?],
        average: match recipe.ema {
            Some(_) => Some([array("average", false)?, array("average", true)?]),
            None => None,
        },
        tally: tally.ok_or("it lacks the sums of its log")?,
    };
    let expected = checkpoint.metadata.get("crc32").and_then(|sum| sum.parse().ok());
    if expected != Some(state.checksum(&checkpoint.metadata["recipe"], layout)) {
        return Err("its checksum does not match: the file is damaged".into());
    }
    Ok(state)
}

/// Names, shapes and ranges of parameters or buffers.
fn entries(layout: &Layout, buffers: bool) -> impl Iterator<Item = (&str, &[usize], Range<usize>)> {
    let entries = if buffers { layout.buffers() } else { layout.parameters() };
    entries.iter().map(|entry| (&entry.name[..], &entry.shape[..], entry.range.clone()))
}

/// Which parts of two recipes differ, in words.
fn differences(saved: &str, asked: &Recipe) -> Vec<String> {
    let asked = serde_json::to_string(asked).unwrap_or_default();
    // Both through the same parser, so that equal numbers are equal.
    let [saved, asked] = [saved, &asked].map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
    let mut found = Vec::new();
    compare("", &saved, &asked, &mut found);
    found
}

fn compare(name: &str, saved: &Value, asked: &Value, found: &mut Vec<String>) {
    match (saved, asked) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                compare(&inner, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
            }
        }
        _ if saved != asked => found.push(format!("{name} was {} and is {}", said(name, saved), said(name, asked))),
        _ => {}
    }
}

/// A value of a recipe in words. What is not there is an option that was not given.
fn said(name: &str, value: &Value) -> String {
    match (name, value) {
        ("engine", Value::Null) => "\"ours\"".into(),
        (_, Value::Null) => "none".into(),
        _ => value.to_string(),
    }
}
