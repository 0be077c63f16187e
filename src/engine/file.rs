//! Engine files: a plan with its packed weights, ready to run. Loading maps the file and compiles nothing.
//!
//! Layout, little-endian: 64 bytes of `Preamble`, the header (JSON, see `Header`), zeros to the next multiple of 64, then
//! the constants, each at a multiple of 64. Packed weights stay in the mapping; a file must not be changed in place while it
//! is loaded (writing a new one over it is fine: files are replaced, never edited).

use super::EngineError;
use crate::ModelSpec;
use crate::files::{WriteError, write_atomically};
use bytemuck::{Pod, Zeroable};
use segface_codegen::ir::{Graph, Node, Output, Source, Value, ValueId};
use segface_codegen::passes::MemoryPlan;
use segface_codegen::plan::{Constant, Format, Plan, Precision};
use segface_kernels::gemm::core::SharedBytes;
use segface_kernels::gemm::{PackedHeader, PackedMatrix};
use segface_kernels::{DType, bf16};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"segface\0";
/// Raised whenever a plan of an older program would be misread.
const VERSION: u32 = 1;
const ALIGNMENT: usize = 64;

/// The first 64 bytes.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Preamble {
    magic: [u8; 8],
    version: u32,
    /// CRC-32 of the header.
    header_crc: u32,
    /// CRC-32 of everything behind the header's padding.
    data_crc: u32,
    reserved: u32,
    header_bytes: u64,
    data_bytes: u64,
    rest: [u64; 3],
}

/// Everything of a plan but the numbers.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Version of the program that wrote it, for messages.
    program: String,
    model: ModelSpec,
    precision: Precision,
    values: Vec<ValueRecord>,
    nodes: Vec<Node>,
    outputs: Vec<(Output, ValueId)>,
    memory: MemoryPlan,
    constants: Vec<ConstantRecord>,
}

#[derive(Serialize, Deserialize)]
struct ValueRecord {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    source: SourceRecord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SourceRecord {
    Input,
    Constant,
    Node,
}

#[derive(Serialize, Deserialize)]
struct ConstantRecord {
    value: ValueId,
    format: Format,
    /// Size of a packed matrix.
    packed: Option<PackedHeader>,
    /// From the begin of the constants.
    offset: usize,
    bytes: usize,
}

/// Whether the file begins like an engine. Files shorter than that are none.
///
/// # Errors
/// If the file cannot be read.
pub fn is_engine(path: &Path) -> Result<bool, EngineError> {
    let mut begin = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut begin))
        .map_err(|source| EngineError::Io { action: "read", path: path.into(), source })?;
    Ok(begin == MAGIC)
}

/// Writes a plan. The file appears whole or not at all.
///
/// # Errors
/// If the file exists and is not to be replaced, or cannot be written.
pub fn save(plan: &Plan, path: &Path, replace: bool) -> Result<(), EngineError> {
    let mut offset = 0;
    let constants = plan.constants.iter().map(|((value, format), constant)| {
        let bytes = constant.bytes();
        let record = ConstantRecord {
            value: *value,
            format: *format,
            packed: match constant {
                Constant::Packed(matrix) => Some(matrix.header()),
                _ => None,
            },
            offset,
            bytes,
        };
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
        record
    });
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        model: plan.model,
        precision: plan.precision,
        values: plan.graph.values.iter().map(record).collect(),
        nodes: plan.graph.nodes.clone(),
        outputs: plan.graph.outputs.clone(),
        memory: plan.memory.clone(),
        constants: constants.collect(),
    };
    let header = serde_json::to_vec(&header).map_err(|error| EngineError::File {
        path: path.into(),
        reason: format!("the plan cannot be written down: {error}"),
    })?;
    let mut crc = crc32fast::Hasher::new();
    let mut data_bytes = 0;
    for constant in plan.constants.values() {
        let bytes = bytes_of(constant);
        crc.update(bytes);
        crc.update(padding(bytes.len()));
        data_bytes += bytes.len().next_multiple_of(ALIGNMENT);
    }
    let preamble = Preamble {
        magic: MAGIC,
        version: VERSION,
        header_crc: crc32fast::hash(&header),
        data_crc: crc.finalize(),
        reserved: 0,
        header_bytes: header.len() as u64,
        data_bytes: data_bytes as u64,
        rest: [0; 3],
    };
    let content = |out: &mut dyn Write| -> io::Result<()> {
        out.write_all(bytemuck::bytes_of(&preamble))?;
        out.write_all(&header)?;
        out.write_all(padding(header.len()))?;
        for constant in plan.constants.values() {
            let bytes = bytes_of(constant);
            out.write_all(bytes)?;
            out.write_all(padding(bytes.len()))?;
        }
        Ok(())
    };
    write_atomically(path, replace, content).map_err(|error| match error {
        WriteError::Exists => {
            EngineError::File { path: path.into(), reason: "the file exists; `--force` replaces it".into() }
        }
        WriteError::Io(source) => EngineError::Io { action: "write", path: path.into(), source },
    })
}

fn record(value: &Value) -> ValueRecord {
    let source = match value.source {
        Source::Input => SourceRecord::Input,
        Source::Node => SourceRecord::Node,
        Source::Constant(_) | Source::Weight(_) => SourceRecord::Constant,
    };
    ValueRecord { name: value.name.clone(), shape: value.shape.clone(), dtype: value.dtype, source }
}

fn bytes_of(constant: &Constant) -> &[u8] {
    match constant {
        Constant::F32(data) => bytemuck::cast_slice(data),
        Constant::Bf16(data) => bytemuck::cast_slice(data),
        Constant::Packed(matrix) => matrix.as_bytes(),
    }
}

/// Zeros from `len` to the next multiple of [`ALIGNMENT`].
fn padding(len: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..len.next_multiple_of(ALIGNMENT) - len]
}

/// Loads an engine file.
///
/// # Errors
/// If it is no engine of this version, was cut off or changed, or contradicts itself. What is inside is checked again when
/// the plan is given memory.
pub fn load(path: &Path) -> Result<Plan, EngineError> {
    let failed = |source| EngineError::Io { action: "read", path: path.into(), source };
    let bad = |reason: String| EngineError::File { path: path.into(), reason };
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the mapping is read-only. Its bytes change only if someone writes into the file in place, against the contract
    // in the module's documentation; this program replaces files instead.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    let found = map.len();
    let preamble: Preamble = match map.get(..size_of::<Preamble>()) {
        Some(bytes) => bytemuck::pod_read_unaligned(bytes),
        None => return Err(bad(format!("{found} bytes are too few for an engine file"))),
    };
    if preamble.magic != MAGIC {
        return Err(bad("this is not an engine file; `segface compile` makes one from weights".into()));
    }
    if preamble.version != VERSION {
        return Err(bad(format!(
            "an engine of format {}, this program reads format {VERSION}; compile the model again",
            preamble.version
        )));
    }
    let begin = size_of::<Preamble>();
    let header_end = usize::try_from(preamble.header_bytes).ok().and_then(|n| begin.checked_add(n));
    let data_begin = header_end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
    let data_end = usize::try_from(preamble.data_bytes).ok().and_then(|n| data_begin?.checked_add(n));
    let (Some(header_end), Some(data_begin), Some(data_end)) = (header_end, data_begin, data_end) else {
        return Err(bad("its sizes are impossible; compile the model again".into()));
    };
    if data_end != found {
        return Err(bad(format!(
            "{found} bytes, expected {data_end}: it was cut off or extended; compile the model again"
        )));
    }
    let (header, data) = (&map[begin..header_end], &map[data_begin..]);
    if crc32fast::hash(header) != preamble.header_crc || crc32fast::hash(data) != preamble.data_crc {
        return Err(bad("its checksum does not fit: the file was damaged; compile the model again".into()));
    }
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| bad(format!("its header cannot be read ({error}); compile the model again")))?;
    build(header, Arc::new(map), data_begin).map_err(bad)
}

/// A plan from a header and the mapped file, whose constants begin at `data_begin`.
fn build(header: Header, map: SharedBytes, data_begin: usize) -> Result<Plan, String> {
    let values = header.values.into_iter().map(|value| Value {
        name: value.name,
        shape: value.shape,
        dtype: value.dtype,
        source: match value.source {
            SourceRecord::Input => Source::Input,
            SourceRecord::Constant => Source::Constant(Arc::from([])),
            SourceRecord::Node => Source::Node,
        },
    });
    let graph = Graph { values: values.collect(), nodes: header.nodes, outputs: header.outputs };
    let mut constants = std::collections::BTreeMap::new();
    for record in header.constants {
        let range = data_begin
            .checked_add(record.offset)
            .and_then(|start| Some(start..start.checked_add(record.bytes)?))
            .filter(|range| range.end <= (*map).as_ref().len())
            .ok_or("a constant lies outside the file; compile the model again")?;
        let constant = match (record.format, record.packed) {
            (Format::PackedF32 | Format::PackedBf16, Some(packed)) => {
                let matrix = PackedMatrix::from_shared(packed, Arc::clone(&map), range);
                Constant::Packed(matrix.map_err(|error| error.to_string())?)
            }
            (Format::F32, None) => Constant::F32(copied::<f32>(&(*map).as_ref()[range])?),
            (Format::Bf16, None) => Constant::Bf16(copied::<bf16>(&(*map).as_ref()[range])?),
            _ => return Err("a constant's form is impossible; compile the model again".into()),
        };
        constants.insert((record.value, record.format), constant);
    }
    Ok(Plan { model: header.model, precision: header.precision, graph, memory: header.memory, constants })
}

fn copied<T: Pod>(bytes: &[u8]) -> Result<Arc<[T]>, String> {
    let numbers: &[T] =
        bytemuck::try_cast_slice(bytes).map_err(|error| format!("a constant is misaligned: {error}"))?;
    Ok(Arc::from(numbers))
}
