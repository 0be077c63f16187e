//! Fetching published checkpoints from the Hugging Face hub.
//!
//! The download lands in the cache the Hugging Face tools share, is compared with the SHA-256 the hub keeps for it, and
//! is converted once to a safetensors file in their folder for derived files (`assets`), from where it is used.

use super::{Hints, Published, REPOSITORY, SaveAs, Weights, WeightsError};
use hf_hub::{
    Cache, Repo,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError},
    },
};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub, and where its files are kept on this machine.
#[derive(Debug, Clone)]
pub struct Hub {
    /// Address of the hub.
    pub endpoint: String,
    /// The cache shared with other Hugging Face tools.
    pub cache: PathBuf,
    /// Where converted checkpoints lie.
    pub converted: PathBuf,
    /// Whether the network may not be used.
    pub offline: bool,
}

impl Hub {
    /// What the Hugging Face variables say: HF_ENDPOINT, HF_HUB_CACHE, HF_ASSETS_CACHE, HF_HOME, HF_HUB_OFFLINE; else
    /// huggingface.co and `~/.cache/huggingface`.
    pub fn from_env() -> Result<Hub, WeightsError> {
        let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(env::home_dir()?.join(".cache/huggingface")))
            .ok_or(WeightsError::NoCache)?;
        let offline = env::var("HF_HUB_OFFLINE").unwrap_or_default().to_ascii_lowercase();
        Ok(Hub {
            endpoint: env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty()).unwrap_or(DEFAULT_ENDPOINT.into()),
            cache: folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            converted: folder("HF_ASSETS_CACHE").unwrap_or_else(|| home.join("assets")).join("segface"),
            offline: matches!(offline.as_str(), "1" | "true" | "yes" | "on"),
        })
    }

    /// Where the converted checkpoint lies, or will.
    pub fn converted(&self, model: &Published) -> PathBuf {
        self.converted.join(format!("{}.safetensors", model.name))
    }

    /// Makes sure the converted checkpoint is there, from the cache or the network, and says where. `again` ignores what
    /// is in the cache.
    pub fn fetch(&self, model: &Published, again: bool) -> Result<PathBuf, WeightsError> {
        let converted = self.converted(model);
        if converted.exists() && !again {
            return Ok(converted);
        }
        let cached = Cache::new(self.cache.clone()).repo(repository()).get(&model.file());
        let checkpoint = match cached {
            Some(path) if !again => {
                // The cache names a file's content by its SHA-256 and links to it.
                let etag = fs::canonicalize(&path).ok().and_then(|p| Some(p.file_name()?.to_str()?.to_owned()));
                check(&path, etag.as_deref())?;
                path
            }
            _ => self.download(model)?,
        };
        let hints = Hints { variant: Some(model.variant), resolution: Some(model.resolution) };
        let weights = Weights::load_with(&checkpoint, hints)?;
        fs::create_dir_all(&self.converted).map_err(|source| WeightsError::Io {
            action: "create the folder",
            file: self.converted.display().to_string(),
            source,
        })?;
        weights.save(&converted, SaveAs { dtype: None, force: true })?;
        Ok(converted)
    }

    fn download(&self, model: &Published) -> Result<PathBuf, WeightsError> {
        let file = model.file();
        let url = format!("{}/{REPOSITORY}/resolve/main/{file}", self.endpoint);
        let failed = |reason: String| WeightsError::Download {
            name: model.name,
            reason,
            url: url.clone(),
            cache: self.cache.display().to_string(),
        };
        if self.offline {
            return Err(failed("HF_HUB_OFFLINE forbids using the network".into()));
        }
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_user_agent("segface", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| failed(explain(&e)))?;
        let repository = api.repo(repository());
        let announced = api.metadata(&repository.url(&file)).map_err(|e| failed(explain(&e)))?;
        let path = repository.download_with_progress(&file, Bar::default()).map_err(|e| failed(explain(&e)))?;
        check(&path, Some(announced.etag()))?;
        Ok(path)
    }
}

impl Published {
    /// The checkpoint of that name, or an error that says which there are.
    pub fn named(name: &str) -> Result<Published, WeightsError> {
        Published::find(name).ok_or_else(|| WeightsError::UnknownModel { name: name.into(), known: Published::names() })
    }
}

fn repository() -> Repo {
    Repo::model(REPOSITORY.into())
}

fn explain(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(source) => source.to_string(),
        other => other.to_string(),
    }
}

/// Compares a file with the SHA-256 in its hub tag. Large files have one there; a tag of another form says nothing about
/// the content. A file that does not match is removed, so that the next try starts anew.
fn check(path: &Path, etag: Option<&str>) -> Result<(), WeightsError> {
    let Some(expected) = etag.filter(|tag| tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit())) else {
        return Ok(());
    };
    let file = path.display().to_string();
    let found = sha256(path).map_err(|source| WeightsError::Io { action: "read", file: file.clone(), source })?;
    if found == expected.to_ascii_lowercase() {
        return Ok(());
    }
    let content = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for damaged in [path, &content] {
        // Already gone, or not ours to remove: the checksum is what matters to the user.
        if let Err(error) = fs::remove_file(damaged) {
            tracing::debug!("cannot remove {}: {error}", damaged.display());
        }
    }
    Err(WeightsError::Checksum { file, expected: expected.to_owned(), found })
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            len => hash.update(&buffer[..len]),
        }
    }
}

/// A progress bar on standard error, if that is a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn init(&mut self, size: usize, filename: &str) {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
        let bar = ProgressBar::new(size as u64);
        // The template is constant; were it wrong, the plain bar would show.
        let bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
        bar.set_message(filename.to_owned());
        self.0 = Some(bar);
    }

    fn update(&mut self, size: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(size as u64);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
