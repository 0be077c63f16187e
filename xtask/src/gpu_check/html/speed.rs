//! The sections with times.

use super::{Cell, escaped, number, section, table, text, time};
use crate::gpu_check::report::Report;
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Write};

/// Which configuration a record is about.
fn key(record: &Value) -> (String, u64, String) {
    let string = |name: &str| record[name].as_str().unwrap_or("").to_owned();
    (string("precision"), record["batch"].as_u64().unwrap_or(0), string("network"))
}

/// The times of one configuration in milliseconds: ours as a graph and singly, the bound; PyTorch eager, eager as a graph, compiled, compiled as a graph.
#[derive(Default, Clone, Copy)]
struct Times {
    graph: Option<f64>,
    single: Option<f64>,
    bound: Option<f64>,
    launches: Option<f64>,
    torch: [Option<f64>; 4],
}

pub(super) fn networks(out: &mut String, report: &Report) {
    let mut all: BTreeMap<(String, u64, String), Times> = BTreeMap::new();
    for record in report.of("speed") {
        let times = all.entry(key(record)).or_default();
        times.graph = record["graph_ms"].as_f64();
        times.single = record["single_ms"].as_f64();
        times.bound = record["bound_ms"].as_f64();
        times.launches = record["launches"].as_f64();
    }
    for record in report.of("torch") {
        let first = if record["mode"] == "compiled" { 2 } else { 0 };
        let times = all.entry(key(record)).or_default();
        times.torch[first] = record["milliseconds"].as_f64();
        times.torch[first + 1] = record["graph_ms"].as_f64();
    }
    if all.is_empty() {
        return;
    }
    section(
        out,
        "Speed: milliseconds from input tensor to label map",
        "Medians by the device's own events, input and labels on the device. Bound: the least time of all launches by the card's data \
         sheet. PyTorch runs our definition of the published networks (gpu-check/pytorch, held against the published outputs) with the \
         same seeded weights: eager, torch.compile (inductor, default mode, static shapes), and each replayed as a CUDA graph. \
         Ratios are the time of PyTorch over that of segface as a graph; the last one is of PyTorch's fastest.",
    );
    let rows = all.iter().map(|((precision, batch, network), times)| {
        let fastest = times.torch.iter().flatten().copied().min_by(f64::total_cmp);
        let ratio = |torch: Option<f64>| torch.zip(times.graph).map(|(torch, ours)| torch / ours);
        let ratio_cell = |torch: Option<f64>| ("n", ratio(torch).map_or("–".into(), |ratio| format!("{ratio:.2}×")));
        let mut row = vec![text(network), text(precision), number(Some(*batch as f64), 0)];
        let ours = time(times.graph);
        row.push(("n best", ours.1));
        row.push(number(times.graph.map(|ms| *batch as f64 / ms * 1e3), 0));
        row.push(time(times.single));
        row.push(number(times.launches, 0));
        row.push(time(times.bound));
        let share = times.bound.zip(times.graph).map(|(bound, ms)| 100.0 * bound / ms);
        row.push(("n", share.map_or("–".into(), |share| format!("{share:.0} %"))));
        row.extend(times.torch.map(time));
        row.extend([ratio_cell(times.torch[0]), ratio_cell(fastest)]);
        row
    });
    let heads = [
        ("", "network"),
        ("", "precision"),
        ("n", "batch"),
        ("n", "segface graph"),
        ("n", "images/s"),
        ("n", "launch by launch"),
        ("n", "launches"),
        ("n", "bound"),
        ("n", "of bound"),
        ("n", "PyTorch eager"),
        ("n", "as a graph"),
        ("n", "compiled"),
        ("n", "as a graph"),
        ("n", "× eager"),
        ("n", "× fastest"),
    ];
    table(out, &heads, rows);
    let missing: Vec<&Value> = report.of("speed-missing").chain(report.of("torch-missing")).collect();
    if !missing.is_empty() {
        let _ = writeln!(out, "<details><summary>{} not measured</summary>", missing.len());
        let string = |record: &Value, name: &str| record[name].as_str().unwrap_or("").to_owned();
        let rows = missing.iter().map(|record| {
            let whose = if record["record"] == "speed-missing" {
                "segface".into()
            } else {
                format!("PyTorch {}", string(record, "mode"))
            };
            let (precision, batch, network) = key(record);
            vec![
                text(whose),
                text(network),
                text(precision),
                number(Some(batch as f64), 0),
                text(string(record, "reason")),
            ]
        });
        table(out, &[("", "whose"), ("", "network"), ("", "precision"), ("n", "batch"), ("", "reason")], rows);
        let _ = writeln!(out, "</details>");
    }
}

pub(super) fn ladders(out: &mut String, report: &Report) {
    let records: Vec<&Value> = report.of("ladder").collect();
    if records.is_empty() {
        return;
    }
    section(
        out,
        "Ladders",
        "One operator, computed ever better; gains over the lowest rung. The top rung is what networks use.",
    );
    let mut lowest = BTreeMap::new();
    for record in &records {
        lowest.entry(record["ladder"].to_string()).or_insert(record["milliseconds"].as_f64().unwrap_or(f64::NAN));
    }
    let rows = records.iter().map(|record| {
        let string = |name: &str| record[name].as_str().unwrap_or("").to_owned();
        let milliseconds = record["milliseconds"].as_f64();
        let gain = milliseconds.map(|ms| lowest[&record["ladder"].to_string()] / ms);
        let width = gain.map_or(0.0, |gain| (gain.max(1.0).log2() * 28.0 + 4.0).min(320.0));
        let bar = format!(
            "<span class=\"bar\" style=\"width:{width:.0}px\"></span> {}",
            gain.map_or("–".into(), |gain| format!("{gain:.1}×"))
        );
        let rate = record["gflops"].as_f64().map(|rate| rate / 1e3);
        vec![
            text(string("ladder")),
            text(string("shape")),
            text(string("rung")),
            text(string("precision")),
            time(milliseconds),
            time(rate),
            ("", bar),
        ]
    });
    let heads = [
        ("", "ladder"),
        ("", "problem"),
        ("", "rung"),
        ("", "precision"),
        ("n", "ms"),
        ("n", "TFLOP/s"),
        ("", "gain (bars: log scale)"),
    ];
    table(out, &heads, rows);
}

pub(super) fn launches(out: &mut String, report: &Report) {
    let mut networks: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for record in report.of("kernel") {
        networks.entry(record["network"].as_str().unwrap_or("").to_owned()).or_default().push(record);
    }
    if networks.is_empty() {
        return;
    }
    section(
        out,
        "Launches beside their bounds",
        "Microseconds from one event to the next with a launch between them, so each holds the step from launch to launch as well. \
         The bound is the least by the card's data sheet: arithmetic on the multiprocessors that the blocks keep busy, memory, or \
         4 µs to start.",
    );
    for (network, records) in networks {
        let (_, batch, _) = key(records[0]);
        let sum =
            |name: &str, records: &[&Value]| records.iter().map(|record| record[name].as_f64()).sum::<Option<f64>>();
        let total = sum("microseconds", &records);
        let head = format!(
            "{network} {} at {}, batch {batch}: {} launches, {} µs, bound {} µs",
            records[0]["precision"].as_str().unwrap_or(""),
            records[0]["size"],
            records.len(),
            number(total, 0).1,
            number(sum("bound_us", &records), 0).1
        );
        let _ = writeln!(out, "<details><summary>{}</summary>", escaped(&head));
        let mut operators: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for record in &records {
            operators.entry(record["operator"].as_str().unwrap_or("")).or_default().push(record);
        }
        let mut rows: Vec<(f64, Vec<Cell>)> = operators
            .into_iter()
            .map(|(operator, records)| {
                let (took, bound) = (sum("microseconds", &records), sum("bound_us", &records));
                let percent =
                    |part: Option<f64>, whole: Option<f64>| part.zip(whole).map(|(part, whole)| 100.0 * part / whole);
                let cells = vec![
                    text(operator),
                    number(Some(records.len() as f64), 0),
                    time(took),
                    number(percent(took, total), 1),
                    time(bound),
                    number(percent(bound, took), 0),
                    time(sum("gflop", &records)),
                    time(sum("megabytes", &records)),
                ];
                (took.unwrap_or(0.0), cells)
            })
            .collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let heads = [
            ("", "operator"),
            ("n", "launches"),
            ("n", "µs"),
            ("n", "% of time"),
            ("n", "bound µs"),
            ("n", "% of bound"),
            ("n", "GFLOP"),
            ("n", "MB"),
        ];
        table(out, &heads, rows.into_iter().map(|(_, row)| row));
        let _ = writeln!(out, "<details><summary>every launch</summary>");
        let rows = records.iter().map(|record| {
            let string = |name: &str| record[name].as_str().unwrap_or("").to_owned();
            let grid: Vec<String> = record["grid"].as_array().into_iter().flatten().map(Value::to_string).collect();
            vec![
                number(record["index"].as_f64(), 0),
                text(string("kernel")),
                text(string("node")),
                text(format!("{} × {}", grid.join("·"), record["threads"])),
                time(record["microseconds"].as_f64()),
                time(record["bound_us"].as_f64()),
                text(string("limit")),
            ]
        });
        let heads = [
            ("n", "#"),
            ("", "kernel"),
            ("", "node"),
            ("", "grid × threads"),
            ("n", "µs"),
            ("n", "bound µs"),
            ("", "limited by"),
        ];
        table(out, &heads, rows);
        let _ = writeln!(out, "</details></details>");
    }
}
