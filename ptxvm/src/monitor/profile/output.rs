//! Profiles as a table and as JSON.

use super::{Class, Counters, KernelProfile, profiles};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// Lines shown of each kernel.
const SHOWN: usize = 16;

/// Instructions of one line of the source, or of the PTX where that is not known.
struct Row {
    place: String,
    text: String,
    counters: Counters,
}

fn rows(profile: &KernelProfile) -> Vec<Row> {
    let mut rows: BTreeMap<(bool, String, u32), Row> = BTreeMap::new();
    for (site, counters) in profile.sites.iter().enumerate().filter(|(_, counters)| counters.instructions > 0) {
        let at = super::super::At { block: 0, warp: 0, lane: 0, site: site as u32 };
        let Some((_, info)) = profile.kernel.instruction(at.site) else { continue };
        let file = info
            .source
            .and_then(|source| profile.kernel.program.files.get(&source.file).map(|file| (file.clone(), source.line)));
        let key = match &file {
            Some((file, line)) => (true, file.clone(), *line),
            None => (false, String::new(), info.line),
        };
        let row = rows.entry(key).or_insert_with(|| {
            let spot = profile.kernel.spot(at, "");
            match spot.source {
                Some((file, line)) => Row {
                    place: format!("{}:{line}", file.rsplit('/').next().unwrap_or(&file)),
                    text: spot.source_text.map_or(spot.text, |text| text.trim().to_owned()),
                    counters: Counters::default(),
                },
                None => Row { place: format!("ptx:{}", spot.line), text: spot.text, counters: Counters::default() },
            }
        });
        row.counters += counters;
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(cost(&row.counters)));
    rows
}

/// An order of magnitude of what instructions cost: one each, a sector or a wave about as much.
fn cost(counters: &Counters) -> u64 {
    counters.instructions + counters.sectors + counters.waves
}

fn classes(profile: &KernelProfile) -> BTreeMap<Class, u64> {
    let mut classes = BTreeMap::new();
    for (site, counters) in profile.sites.iter().enumerate().filter(|(_, counters)| counters.instructions > 0) {
        if let Some((_, info)) = profile.kernel.instruction(site as u32) {
            *classes.entry(Class::of(&info.opcode)).or_default() += counters.instructions;
        }
    }
    classes
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn per(a: u64, b: u64) -> String {
    if b == 0 { "-".to_owned() } else { format!("{:.2}", ratio(a, b)) }
}

/// The profiles of all kernels as tables; empty if nothing was profiled.
pub(crate) fn render() -> String {
    let mut out = String::new();
    for ((name, _), profile) in profiles().iter() {
        let total = &profile.total;
        let _ = writeln!(out, "kernel {name}: {} launches, {} blocks", profile.launches, profile.blocks);
        let classes: Vec<String> = classes(profile)
            .into_iter()
            .map(|(class, count)| format!("{} {:.1}%", class.name(), 100.0 * ratio(count, total.instructions)))
            .collect();
        let _ = writeln!(out, "  instructions      {}", classes.join(", "));
        let _ = writeln!(
            out,
            "  lanes             {} of 32 active, {} divergent branches",
            per(total.lanes, total.instructions),
            total.divergent
        );
        let _ = writeln!(
            out,
            "  global memory     {} B read, {} B written, {} sectors per request; footprint {} B read, {} B written",
            total.global_read,
            total.global_written,
            per(total.sectors, total.requests),
            profile.read_footprint,
            profile.written_footprint
        );
        let _ = writeln!(
            out,
            "  shared memory     {} B read, {} B written, {} waves per request",
            total.shared_read,
            total.shared_written,
            per(total.waves, total.shared_requests)
        );
        if total.macs > 0 {
            let _ = writeln!(out, "  mma               {} multiply-accumulates", total.macs);
        }
        let _ = writeln!(out, "  {:<18}{:>14}{:>14}{:>14}", "per block", "least", "mean", "most");
        for (((name, sum), (_, least)), (_, most)) in
            total.list().into_iter().zip(profile.least.list()).zip(profile.most.list()).filter(|entry| entry.0.0.1 > 0)
        {
            let mean = ratio(sum, profile.blocks);
            let _ = writeln!(out, "  {name:<18}{least:>14}{mean:>14.1}{most:>14}");
        }
        let rows = rows(profile);
        let width = rows.iter().take(SHOWN).map(|row| row.place.len()).max().unwrap_or(0).max(4);
        let _ = writeln!(
            out,
            "  {:<width$}{:>12}{:>7}{:>9}{:>9}{:>10}",
            "line", "instr", "lanes", "sect/rq", "wave/rq", "divergent"
        );
        for row in rows.iter().take(SHOWN) {
            let c = &row.counters;
            let text: String = row.text.chars().take(64).collect();
            let _ = writeln!(
                out,
                "  {:<width$}{:>12}{:>7.1}{:>9}{:>9}{:>10}  {text}",
                row.place,
                c.instructions,
                ratio(c.lanes, c.instructions),
                per(c.sectors, c.requests),
                per(c.waves, c.shared_requests),
                c.divergent
            );
        }
    }
    out
}

fn counters(counters: &Counters) -> Map<String, Value> {
    counters
        .list()
        .into_iter()
        .filter(|(_, value)| *value > 0)
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect()
}

/// The profiles of all kernels as JSON.
pub(crate) fn to_json() -> Value {
    let profiles = profiles();
    let kernels = profiles.iter().map(|((name, _), profile)| {
        let spread: Map<String, Value> = profile
            .total
            .list()
            .into_iter()
            .zip(profile.least.list())
            .zip(profile.most.list())
            .filter(|entry| entry.0.0.1 > 0)
            .map(|(((name, sum), (_, least)), (_, most))| {
                let mean = ratio(sum, profile.blocks);
                (name.to_owned(), json!({ "min": least, "mean": mean, "max": most }))
            })
            .collect();
        let lines: Vec<Value> = rows(profile)
            .iter()
            .map(|row| {
                let mut line = counters(&row.counters);
                line.insert("place".into(), json!(row.place));
                line.insert("text".into(), json!(row.text));
                Value::Object(line)
            })
            .collect();
        let classes: Map<String, Value> =
            classes(profile).into_iter().map(|(class, count)| (class.name().to_owned(), json!(count))).collect();
        json!({
            "kernel": name,
            "launches": profile.launches,
            "blocks": profile.blocks,
            "total": counters(&profile.total),
            "classes": classes,
            "sectors": profile.total.sectors,
            "bank_conflicts": profile.total.bank_conflicts,
            "sectors_per_request": ratio(profile.total.sectors, profile.total.requests),
            "waves_per_request": ratio(profile.total.waves, profile.total.shared_requests),
            "footprint": { "read": profile.read_footprint, "written": profile.written_footprint },
            "per_block": spread,
            "lines": lines,
        })
    });
    Value::Array(kernels.collect())
}
