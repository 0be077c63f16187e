//! Engine files for CUDA devices: a program, its weights, and its kernels compiled for several architectures, so that a machine
//! with nothing but a driver runs it.

use super::photo::photo_kernels;
use super::{Compiler, CudaError, Device, Image};
use crate::engine::EngineError;
use crate::engine::container::{self, Kind};
use crate::engine::file::GraphRecord;
use segface_codegen::ModelSpec;
use segface_codegen::cuda::{Form, Kernel, Launch, Program};
use segface_codegen::ir::ValueId;
use segface_codegen::passes::MemoryPlan;
use segface_codegen::plan::Precision;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// A program with its kernels compiled.
#[derive(Debug, Clone)]
pub struct CudaFile {
    /// The program.
    pub program: Program,
    /// Images of its kernels, in order, then of those around it, for each target: `sm_90`, … and PTX (`compute_80`) for cards
    /// that come later.
    pub images: Vec<(String, Vec<Image>)>,
}

/// Everything but the bytes.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Version of the program that wrote it, for messages.
    program: String,
    model: ModelSpec,
    precision: Precision,
    #[serde(flatten)]
    graph: GraphRecord,
    memory: MemoryPlan,
    kernels: Vec<Kernel>,
    launches: Vec<Launch>,
    counters: usize,
    #[serde(default)]
    chosen_by: String,
    constants: Vec<(ValueId, Form, Place)>,
    /// The kernels that lay a photo into the network and its labels out of it.
    photo_kernels: Vec<Kernel>,
    images: Vec<(String, Vec<Place>)>,
}

/// A blob: from the begin of the blobs.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Place {
    offset: usize,
    bytes: usize,
}

impl CudaFile {
    /// Compiles a program's kernels for `targets` (`sm_80`, …), and to PTX for the oldest card.
    ///
    /// # Errors
    /// Without a compiler, or if it refuses.
    pub fn compile(program: Program, targets: &[String]) -> Result<Self, CudaError> {
        let compiler = Compiler::find()?;
        let kernels = [&program.kernels[..], &photo_kernels(&program)].concat();
        let targets = targets.iter().cloned().chain(["compute_80".to_owned()]);
        let images = targets.map(|target| Ok((target.clone(), compiler.compile(&kernels, &target)?)));
        Ok(Self { images: images.collect::<Result<_, CudaError>>()?, program })
    }

    /// Writes it. The file appears whole or not at all.
    ///
    /// # Errors
    /// If the file exists and is not to be replaced, or cannot be written.
    pub fn save(&self, path: &Path, replace: bool) -> Result<(), EngineError> {
        let mut blobs: Vec<&[u8]> = Vec::new();
        let mut end = 0;
        let mut place = |bytes| {
            blobs.push(bytes);
            let place = Place { offset: end, bytes: bytes.len() };
            end = container::next(end + bytes.len());
            place
        };
        let program = &self.program;
        let constants = program.constants.iter().map(|(value, form, bytes)| (*value, *form, place(bytes))).collect();
        let images = self
            .images
            .iter()
            .map(|(target, images)| (target.clone(), images.iter().map(|image| place(image.bytes())).collect()));
        let header = Header {
            program: env!("CARGO_PKG_VERSION").into(),
            model: program.model,
            precision: program.precision,
            graph: GraphRecord::of(&program.graph),
            memory: program.memory.clone(),
            kernels: program.kernels.clone(),
            launches: program.launches.clone(),
            counters: program.counters,
            photo_kernels: photo_kernels(program),
            chosen_by: program.chosen_by.clone(),
            images: images.collect(),
            constants,
        };
        let header = serde_json::to_vec(&header).map_err(|error| EngineError::File {
            path: path.into(),
            reason: format!("the program cannot be written down: {error}"),
        })?;
        container::save(path, Kind::Cuda, &header, &blobs, replace)
    }

    /// Loads one.
    ///
    /// # Errors
    /// If it is no engine for CUDA of this version, was cut off or changed, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, EngineError> {
        let bad = |reason: String| EngineError::File {
            path: path.into(),
            reason: format!("{reason}; compile the model again"),
        };
        let content = container::load(path, Kind::Cuda)?;
        let header: Header = serde_json::from_slice(content.header())
            .map_err(|error| bad(format!("its header cannot be read ({error})")))?;
        let map = (*content.map).as_ref();
        let blob = |place: Place| {
            let begin = content.data_begin.checked_add(place.offset);
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(place.bytes)?));
            range.and_then(|range| map.get(range)).ok_or_else(|| bad("a part of it lies outside the file".into()))
        };
        let constants =
            header.constants.iter().map(|(value, form, place)| Ok((*value, *form, Arc::from(blob(*place)?))));
        let constants = constants.collect::<Result<_, EngineError>>()?;
        let mut images = Vec::new();
        for (target, places) in &header.images {
            let image = |place: &Place| -> Result<Image, EngineError> {
                let bytes = blob(*place)?.to_vec();
                Ok(match target.starts_with("sm_") {
                    true => Image::Cubin(bytes),
                    false => Image::Ptx(String::from_utf8(bytes).map_err(|_| bad("its PTX is no text".into()))?),
                })
            };
            images.push((target.clone(), places.iter().map(image).collect::<Result<Vec<_>, _>>()?));
        }
        let program = Program {
            model: header.model,
            precision: header.precision,
            graph: header.graph.graph(),
            memory: header.memory,
            kernels: header.kernels,
            launches: header.launches,
            constants,
            counters: header.counters,
            choices: Vec::new(),
            chosen_by: header.chosen_by,
        };
        program.validate().map_err(bad)?;
        // They are launched by this program's description of them.
        if header.photo_kernels != photo_kernels(&program) {
            return Err(bad("its kernels for photos are those of another version of this program".into()));
        }
        let kernels = program.kernels.len() + header.photo_kernels.len();
        if images.iter().any(|(_, images)| images.len() != kernels) {
            return Err(bad("it lacks the code of a kernel".into()));
        }
        Ok(Self { program, images })
    }

    /// The images that a card may take, the best first: machine code of its own architecture or of an older minor version of the
    /// same major one, then PTX, for a driver that takes no machine code.
    ///
    /// # Errors
    /// If the file was compiled for other cards only.
    pub fn images_for(&self, device: &Device) -> Result<Vec<&[Image]>, CudaError> {
        let (major, minor) = device.capability();
        let arch = (major * 10 + minor) as u32;
        let number = |target: &str, prefix: &str| target.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok());
        let rank = |target: &str| match (number(target, "sm_"), number(target, "compute_")) {
            (Some(n), _) if n / 10 == arch / 10 && n <= arch => Some((1, n)),
            (_, Some(n)) if n <= arch => Some((0, n)),
            _ => None,
        };
        let ranked = self.images.iter().filter_map(|(target, images)| Some((rank(target)?, images.as_slice())));
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        if ranked.is_empty() {
            let have: Vec<&str> = self.images.iter().map(|(target, _)| target.as_str()).collect();
            return Err(CudaError::WrongCard { name: device.name().into(), arch, have: have.join(", ") });
        }
        Ok(ranked.into_iter().map(|(_, images)| images).collect())
    }
}
