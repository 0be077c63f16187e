//! Engine files: a plan with its packed weights, ready to run. Loading maps the file and compiles nothing.
//!
//! The header is JSON (`Header`), the blobs are the constants (`container.rs`). Packed weights stay in the mapping.

use super::EngineError;
use super::container::{self, Kind};
use crate::ModelSpec;
use bytemuck::Pod;
use segface_codegen::ir::{Graph, Node, Output, Source, Value, ValueId};
use segface_codegen::passes::MemoryPlan;
use segface_codegen::plan::{Constant, Format, Plan, Precision};
use segface_kernels::gemm::core::SharedBytes;
use segface_kernels::gemm::{PackedHeader, PackedMatrix};
use segface_kernels::{DType, bf16};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Everything of a plan but the numbers.
#[derive(Serialize, Deserialize)]
struct Header {
    /// Version of the program that wrote it, for messages.
    program: String,
    model: ModelSpec,
    precision: Precision,
    #[serde(flatten)]
    graph: GraphRecord,
    memory: MemoryPlan,
    constants: Vec<ConstantRecord>,
}

/// A graph without the numbers of its constants.
#[derive(Serialize, Deserialize)]
pub(super) struct GraphRecord {
    values: Vec<ValueRecord>,
    nodes: Vec<Node>,
    outputs: Vec<(Output, ValueId)>,
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

/// What kind of engine the file is, if it is one.
///
/// # Errors
/// If the file cannot be read.
pub fn kind(path: &Path) -> Result<Option<Kind>, EngineError> {
    container::kind(path)
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
        offset = container::next(offset + bytes);
        record
    });
    let header = Header {
        program: env!("CARGO_PKG_VERSION").into(),
        model: plan.model,
        precision: plan.precision,
        graph: GraphRecord::of(&plan.graph),
        memory: plan.memory.clone(),
        constants: constants.collect(),
    };
    let header = serde_json::to_vec(&header).map_err(|error| EngineError::File {
        path: path.into(),
        reason: format!("the plan cannot be written down: {error}"),
    })?;
    let constants: Vec<&[u8]> = plan.constants.values().map(bytes_of).collect();
    container::save(path, Kind::Cpu, &header, &constants, replace)
}

impl GraphRecord {
    pub(super) fn of(graph: &Graph) -> Self {
        let record = |value: &Value| {
            let source = match value.source {
                Source::Input => SourceRecord::Input,
                Source::Node => SourceRecord::Node,
                Source::Constant(_) | Source::Weight(_) => SourceRecord::Constant,
            };
            ValueRecord { name: value.name.clone(), shape: value.shape.clone(), dtype: value.dtype, source }
        };
        let values = graph.values.iter().map(record).collect();
        Self { values, nodes: graph.nodes.clone(), outputs: graph.outputs.clone() }
    }

    pub(super) fn graph(self) -> Graph {
        let values = self.values.into_iter().map(|value| Value {
            name: value.name,
            shape: value.shape,
            dtype: value.dtype,
            source: match value.source {
                SourceRecord::Input => Source::Input,
                SourceRecord::Constant => Source::Constant(Arc::from([])),
                SourceRecord::Node => Source::Node,
            },
        });
        Graph { values: values.collect(), nodes: self.nodes, outputs: self.outputs }
    }
}

fn bytes_of(constant: &Constant) -> &[u8] {
    match constant {
        Constant::F32(data) => bytemuck::cast_slice(data),
        Constant::Bf16(data) => bytemuck::cast_slice(data),
        Constant::Packed(matrix) => matrix.as_bytes(),
    }
}

/// Loads an engine file.
///
/// # Errors
/// If it is no engine of this version, was cut off or changed, or contradicts itself. What is inside is checked again when
/// the plan is given memory.
pub fn load(path: &Path) -> Result<Plan, EngineError> {
    let bad = |reason: String| EngineError::File { path: path.into(), reason };
    let content = container::load(path, Kind::Cpu)?;
    let header: Header = serde_json::from_slice(content.header())
        .map_err(|error| bad(format!("its header cannot be read ({error}); compile the model again")))?;
    build(header, Arc::clone(&content.map), content.data_begin).map_err(bad)
}

/// A plan from a header and the mapped file, whose constants begin at `data_begin`.
fn build(header: Header, map: SharedBytes, data_begin: usize) -> Result<Plan, String> {
    let graph = header.graph.graph();
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
