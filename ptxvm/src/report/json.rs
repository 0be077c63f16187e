//! Findings and profiles as JSON.

use super::{AllocationNote, Finding, Findings, Shrunk, Spot};
use serde_json::{Map, Value, json};
use std::{
    io,
    path::{Path, PathBuf},
};

fn spot(place: &Spot) -> Map<String, Value> {
    let mut map = Map::new();
    let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
    put("kernel", json!(place.kernel));
    put("function", json!(place.function));
    put("opcode", json!(place.opcode));
    put("line", json!(place.line));
    put("text", json!(place.text));
    put("source", json!(place.source.as_ref().map(|(file, line)| format!("{file}:{line}"))));
    put("source_text", json!(place.source_text));
    let one = (!place.several_blocks).then_some((place.block, place.thread));
    put("block", json!(one.map(|(block, _)| block)));
    put("thread", json!(one.map(|(_, thread)| thread)));
    put("label", json!(place.label));
    map
}

fn allocation(note: &AllocationNote) -> Value {
    json!({
        "address": format!("{:#x}", note.address),
        "base": format!("{:#x}", note.base),
        "bytes": note.bytes,
        "space": note.space,
        "label": note.label,
    })
}

fn finding(finding: &Finding) -> Value {
    let mut map = spot(&finding.at);
    map.insert("kind".into(), json!(finding.kind));
    map.insert("message".into(), json!(finding.message));
    map.insert("count".into(), json!(finding.count));
    map.insert("seed".into(), json!(finding.seed));
    if let Some(shrunk) = &finding.shrunk {
        let Shrunk { numbers, blocks, of, grid, seed, runs } = shrunk;
        let value = json!({ "numbers": numbers, "blocks": blocks, "of": of, "grid": grid, "seed": seed, "runs": runs });
        map.insert("shrunk".into(), value);
    }
    if let Some(other) = &finding.other {
        let mut place = spot(&other.at);
        place.insert("what".into(), json!(other.what));
        map.insert("other".into(), Value::Object(place));
    }
    if let Some(note) = &finding.allocation {
        map.insert("allocation".into(), allocation(note));
    }
    Value::Object(map)
}

/// The report of the process so far: findings, and the profiles of kernels.
pub fn to_json() -> Value {
    let findings: Vec<Value> = Findings::global().list().iter().map(finding).collect();
    json!({ "findings": findings, "kernels": crate::monitor::profile::to_json() })
}

/// Writes the report to a file, which is never seen half written.
///
/// # Errors
/// As writing and renaming a file beside it.
pub fn write(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside: PathBuf = path.with_file_name(name);
    let mut text = serde_json::to_string_pretty(&to_json()).map_err(io::Error::other)?;
    text.push('\n');
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
