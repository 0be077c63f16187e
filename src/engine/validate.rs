//! Checks that a plan holds together before any kernel touches its memory. Plans that the compiler has just made pass; plans
//! from files may have been cut, edited or made by another program.

use super::EngineError;
use segface_codegen::ir::{Source, ValueId};
use segface_codegen::passes::plan_memory::{ALIGNMENT, InPlace, in_place, workspace_bytes};
use segface_codegen::plan::{Constant, Format, Plan, constant_format};
use segface_kernels::DType;

/// Checks graph, memory and constants. The executor's slices are sound for a plan that passes.
pub(super) fn validate(plan: &Plan) -> Result<(), EngineError> {
    let precision = plan.precision;
    let is_f16 = |value: &segface_codegen::ir::Value| value.dtype == DType::F16;
    if !precision.runs_on_cpu() || plan.graph.values.iter().any(is_f16) {
        return Err(broken(format!("it computes in {}, which the CPU does not", precision.name())));
    }
    segface_codegen::check::check(&plan.graph).map_err(|violations| broken(format!("{violations}")))?;
    check_constants(plan)?;
    check_bounds(plan)?;
    check_lives(plan)
}

fn broken(reason: String) -> EngineError {
    EngineError::Broken { reason }
}

fn check_constants(plan: &Plan) -> Result<(), EngineError> {
    for node in &plan.graph.nodes {
        for (slot, id) in &node.inputs {
            let value = &plan.graph.values[id.0];
            if !matches!(value.source, Source::Constant(_)) {
                continue;
            }
            let format = constant_format(&node.op, *slot, plan.precision.dtype());
            let rows = value.shape.first().copied().unwrap_or(0);
            let fits = match (format, plan.constants.get(&(*id, format))) {
                (Format::F32, Some(Constant::F32(data))) => data.len() == value.len(),
                (Format::Bf16, Some(Constant::Bf16(data))) => data.len() == value.len(),
                (Format::PackedF32, Some(Constant::Packed(matrix))) => {
                    matrix.header().dtype == DType::F32 && (matrix.n(), matrix.n() * matrix.k()) == (rows, value.len())
                }
                (Format::PackedBf16, Some(Constant::Packed(matrix))) => {
                    matrix.header().dtype == DType::Bf16 && (matrix.n(), matrix.n() * matrix.k()) == (rows, value.len())
                }
                _ => false,
            };
            if !fits {
                return Err(broken(format!("the constant {} of {} is missing or misshapen", value.name, node.name)));
            }
        }
    }
    Ok(())
}

fn check_bounds(plan: &Plan) -> Result<(), EngineError> {
    let memory = &plan.memory;
    if memory.offsets.len() != plan.graph.values.len() || memory.workspaces.len() != plan.graph.nodes.len() {
        return Err(broken("its memory plan is for another graph".into()));
    }
    let inside = |offset: usize, bytes: usize| {
        offset.is_multiple_of(ALIGNMENT) && offset.checked_add(bytes).is_some_and(|end| end <= memory.arena_bytes)
    };
    for (index, value) in plan.graph.values.iter().enumerate() {
        let placed = memory.offsets[index];
        let must = match value.source {
            Source::Input => true,
            Source::Node => plan.graph.nodes.iter().any(|n| n.outputs.contains(&ValueId(index))),
            _ => false,
        };
        if must != placed.is_some() || placed.is_some_and(|offset| !inside(offset, value.bytes())) {
            return Err(broken(format!("{} does not lie in its arena", value.name)));
        }
    }
    for (node, workspace) in plan.graph.nodes.iter().zip(&memory.workspaces) {
        let bytes = workspace_bytes(&plan.graph, node);
        if (bytes > 0) != workspace.is_some() || workspace.is_some_and(|offset| !inside(offset, bytes)) {
            return Err(broken(format!("the workspace of {} does not lie in its arena", node.name)));
        }
    }
    Ok(())
}

/// Bytes that must keep their content from one node to another.
struct Life {
    name: String,
    bytes: std::ops::Range<usize>,
    begin: isize,
    end: isize,
    /// The value it replaces in place, if the node that begins it may do so.
    replaces: Option<ValueId>,
    value: Option<ValueId>,
}

fn check_lives(plan: &Plan) -> Result<(), EngineError> {
    let graph = &plan.graph;
    let end_of_run = graph.nodes.len() as isize;
    let mut lives: Vec<Life> = Vec::new();
    let mut last_read = vec![-1isize; graph.values.len()];
    for (position, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|(_, id)| last_read[id.0] = position as isize);
    }
    graph.outputs.iter().for_each(|(_, id)| last_read[id.0] = end_of_run);
    let mut add = |id: ValueId, begin: isize, replaces: Option<ValueId>| {
        let Some(offset) = plan.memory.offsets[id.0] else { return };
        let value = &graph.values[id.0];
        lives.push(Life {
            name: value.name.clone(),
            bytes: offset..offset + value.bytes(),
            begin,
            end: last_read[id.0].max(begin),
            replaces,
            value: Some(id),
        });
    };
    for (index, value) in graph.values.iter().enumerate() {
        if matches!(value.source, Source::Input) {
            add(ValueId(index), -1, None);
        }
    }
    for (position, node) in graph.nodes.iter().enumerate() {
        let heir = match in_place(node) {
            InPlace::Always(slot) | InPlace::Allowed(slot) => node.input(slot),
            InPlace::Never => None,
        };
        for (index, output) in node.outputs.iter().enumerate() {
            add(*output, position as isize, heir.filter(|_| index == 0));
        }
    }
    for (position, (node, workspace)) in graph.nodes.iter().zip(&plan.memory.workspaces).enumerate() {
        if let Some(offset) = *workspace {
            let now = position as isize;
            let bytes = offset..offset + workspace_bytes(graph, node);
            let name = format!("workspace of {}", node.name);
            lives.push(Life { name, bytes, begin: now, end: now, replaces: None, value: None });
        }
    }

    lives.sort_by_key(|life| life.begin);
    for (index, later) in lives.iter().enumerate() {
        for earlier in &lives[..index] {
            let apart = earlier.end < later.begin
                || earlier.bytes.end <= later.bytes.start
                || later.bytes.end <= earlier.bytes.start;
            let takes_over = later.replaces.is_some()
                && later.replaces == earlier.value
                && earlier.end == later.begin
                && earlier.bytes == later.bytes;
            if !apart && !takes_over {
                return Err(broken(format!("{} and {} share memory while both are needed", earlier.name, later.name)));
            }
        }
    }
    Ok(())
}
