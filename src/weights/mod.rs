//! Weights: reading checkpoints, recognising the network in them, checking, converting and fetching them.
//!
//! [`Weights`] are complete and sound: every tensor the network computes with is there, has its shape and is finite.
//! [`Checkpoint`] is what a file holds, before anything is asked of it.

#[cfg(target_endian = "big")]
compile_error!("checkpoints are read as little-endian memory; big-endian machines are not supported");

mod error;
mod hub;
mod problems;
mod published;
mod recognise;
mod resolve;
mod safetensors_file;
mod save;
mod seeded;
mod tensor;
mod torch;

pub use error::WeightsError;
pub use hub::Hub;
pub use problems::{Misshapen, NotFinite, NotFloat, Problems};
pub use published::{PUBLISHED, Published, REPOSITORY};
pub use recognise::Hints;
pub use resolve::resolve;
pub(crate) use safetensors_file::{View, write_views};
pub(crate) use save::metadata;
pub use save::{FORMAT_VERSION, SaveAs};
pub(crate) use seeded::table;
pub use seeded::{seeded, seeded_values};
pub use tensor::{DType, Tensor};
pub use torch::PickleError;

use segface_codegen::{ModelSpec, WeightSource};
use std::{borrow::Cow, collections::BTreeMap, fs::File, io, path::Path, sync::Arc};
use tensor::Bytes;

/// How a checkpoint is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// A safetensors file.
    Safetensors,
    /// A zip archive written by `torch.save`.
    Torch,
}

/// What a file holds: tensors by name and metadata, not yet compared with any network.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where it came from, for messages.
    pub file: String,
    /// How it is stored.
    pub container: Container,
    /// Its tensors. Prefixes that training wrappers add to every name (`module.`, `_orig_mod.`) are gone.
    pub tensors: BTreeMap<String, Tensor>,
    /// Metadata of a safetensors file; epoch and iteration of a training checkpoint.
    pub metadata: BTreeMap<String, String>,
    path_hints: Hints,
}

/// The tensors of one network, complete and checked.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Which network they are for.
    pub spec: ModelSpec,
    /// Side of the square input the network was trained with, in pixels, where known.
    pub resolution: Option<usize>,
    file: String,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads a safetensors file or a `torch.save` file; the content tells which, not the name.
    pub fn open(path: &Path) -> Result<Checkpoint, WeightsError> {
        let file = path.display().to_string();
        let failed = |action: &'static str| {
            let file = file.clone();
            move |source: io::Error| WeightsError::Io { action, file, source }
        };
        let handle = File::open(path).map_err(failed("open"))?;
        let found = handle.metadata().map_err(failed("open"))?;
        if found.is_dir() {
            return Err(WeightsError::NotACheckpoint { file, found: "it is a folder".into() });
        }
        if found.len() == 0 {
            return Err(WeightsError::NotACheckpoint { file, found: "it is empty".into() });
        }
        // SAFETY: the map is only read. Like every program that maps its input, this relies on nobody truncating or
        // rewriting the file in place while it is in use; files are replaced by renaming, which leaves the map intact.
        let map = unsafe { memmap2::Mmap::map(&handle) }.map_err(failed("map"))?;
        Checkpoint::from_bytes(file, Bytes::Mapped(Arc::new(map)), Hints::from_path(path))
    }

    /// Reads a checkpoint that is in memory already; `file` stands for its path in messages.
    pub fn from_memory(file: impl Into<String>, bytes: Vec<u8>) -> Result<Checkpoint, WeightsError> {
        Checkpoint::from_bytes(file.into(), Bytes::Owned(Arc::new(bytes)), Hints::default())
    }

    fn from_bytes(file: String, bytes: Bytes, path_hints: Hints) -> Result<Checkpoint, WeightsError> {
        let content = bytes.as_slice();
        let (container, (tensors, metadata)) = if torch::is_archive(content) {
            (Container::Torch, torch::read(&file, &bytes)?)
        } else if content.get(8) == Some(&b'{') {
            (Container::Safetensors, safetensors_file::read(&file, &bytes)?)
        } else {
            return Err(WeightsError::NotACheckpoint { found: describe(content), file });
        };
        let tensors = strip_wrappers(tensors);
        Ok(Checkpoint { file, container, tensors, metadata, path_hints })
    }

    /// Which network the tensors are, and the resolution, if any of `asked`, metadata and file name says it. In this order
    /// they also settle the variant where the tensors allow two.
    pub fn recognise(&self, asked: Hints) -> Result<(ModelSpec, Option<usize>), WeightsError> {
        let (backbone, allowed) = recognise::from_tensors(&self.file, &self.tensors)?;
        let metadata = match self.container {
            Container::Safetensors => Hints::from_metadata(&self.file, &self.metadata, asked)?,
            Container::Torch => Hints::default(),
        };
        let variant =
            recognise::variant(&self.file, allowed, asked.variant, metadata.variant, self.path_hints.variant)?;
        let resolution = asked.or(metadata).or(self.path_hints).resolution;
        Ok((ModelSpec { backbone, variant }, resolution))
    }

    /// What does not fit between the tensors and a network.
    pub fn problems(&self, spec: &ModelSpec) -> Problems {
        Problems::find(&self.tensors, spec)
    }

    /// Recognises the network and makes sure its tensors are complete and sound.
    pub fn into_weights(self, asked: Hints) -> Result<Weights, WeightsError> {
        let (spec, resolution) = self.recognise(asked)?;
        let problems = self.problems(&spec);
        if !problems.is_empty() {
            return Err(WeightsError::Problems { file: self.file, spec, problems: Box::new(problems) });
        }
        Ok(Weights { spec, resolution, file: self.file, tensors: self.tensors })
    }
}

impl Weights {
    /// Loads a safetensors file or a published `.pt`. The file is mapped: tensors are read when they are used.
    pub fn load(path: &Path) -> Result<Weights, WeightsError> {
        Weights::load_with(path, Hints::default())
    }

    /// Loads a checkpoint about which more is known than its file says.
    pub fn load_with(path: &Path, asked: Hints) -> Result<Weights, WeightsError> {
        Checkpoint::open(path)?.into_weights(asked)
    }

    /// The small demonstration network inside the program: MobileNet, celeb, trained on rendered faces only
    /// (weights/README.md). Rough; it is there so that everything can be tried without a download.
    pub fn demo() -> Result<Weights, WeightsError> {
        static DEMO: &[u8] =
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/segface_mobilenet_celeb_demo.safetensors"));
        Checkpoint::from_bytes("the built-in demonstration weights".into(), Bytes::Static(DEMO), Hints::default())?
            .into_weights(Hints::default())
    }

    /// Weights that were made here; `file` stands for a path in messages.
    ///
    /// # Errors
    /// [`WeightsError::Problems`] if tensors are missing, unknown, misshapen or not finite.
    pub fn from_tensors(
        file: impl Into<String>,
        spec: ModelSpec,
        resolution: Option<usize>,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Weights, WeightsError> {
        let (file, problems) = (file.into(), Problems::find(&tensors, &spec));
        if !problems.is_empty() {
            return Err(WeightsError::Problems { file, spec, problems: Box::new(problems) });
        }
        Ok(Weights { spec, resolution, file, tensors })
    }

    /// Where they came from, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every tensor by its published name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Number of trained parameters: the floating-point tensors but for the statistics of batch norms, fixed tables
    /// and the position matrix.
    pub fn parameters(&self) -> usize {
        self.tensors
            .iter()
            .filter(|(name, tensor)| tensor.dtype().is_float() && !is_buffer(name))
            .map(|(_, t)| t.len())
            .sum()
    }
}

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Option<(&[usize], Cow<'_, [f32]>)> {
        let tensor = self.tensors.get(name)?;
        Some((tensor.shape(), tensor.values()))
    }

    fn release(&self, name: &str) {
        if let Some(tensor) = self.tensors.get(name) {
            tensor.release();
        }
    }
}

/// Whether a tensor of that name is saved with the network but not trained.
fn is_buffer(name: &str) -> bool {
    matches!(
        name.rsplit('.').next(),
        Some(
            "running_mean"
                | "running_var"
                | "num_batches_tracked"
                | "relative_position_index"
                | "relative_coords_table"
                | "positional_encoding_gaussian_matrix"
        )
    )
}

/// Takes off prefixes that data-parallel and compiling wrappers put before every name.
fn strip_wrappers(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    for prefix in ["module.", "_orig_mod.", "module."] {
        if tensors.keys().all(|name| name.len() > prefix.len() && name.starts_with(prefix)) {
            tensors = tensors.into_iter().map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor)).collect();
        }
    }
    tensors
}

/// What bytes that are no checkpoint look like.
fn describe(content: &[u8]) -> String {
    if content.starts_with(b"version https://git-lfs") {
        return "it is a Git LFS pointer, not the file itself (run `git lfs pull`, or download the file)".into();
    }
    if content.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'<') {
        return "it is a web page; the download was answered with one".into();
    }
    if torch::is_legacy(content) {
        return "it was written by torch.save before PyTorch 1.6 (or with _use_new_zipfile_serialization=False); load and save \
                it again with a newer PyTorch"
            .into();
    }
    let start: Vec<_> = content.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("it starts with the bytes {}", start.join(" "))
}
