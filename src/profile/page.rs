//! Profiles as one HTML page that needs nothing else.

use super::cpu::CpuProfile;
use super::roofline::escape;
use super::{Batch, Dot, OnCard, Profile, Roof, Row, plot, rooms_table};
use segface_codegen::cuda::card::{Card, achievable};
use segface_codegen::plan::Precision;
use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1180px;padding:0 16px;color:#1a1a1a}\
h1{font-size:22px}h2{font-size:17px;margin-top:28px}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:2px 9px;border-bottom:1px solid #e4e4e4;text-align:right;white-space:nowrap}th{background:#f5f5f5;position:sticky;\
top:0}td.n,th.n{text-align:left}.wide{overflow-x:auto}pre{background:#f7f7f7;padding:10px;overflow-x:auto}svg{max-width:100%;\
height:auto}.note{color:#555}";

fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escape(title)
    )
}

/// The page of a profile on CUDA cards.
///
/// # Errors
/// What the plotting library says.
pub fn page(profile: &Profile) -> Result<String, String> {
    let [height, width] = profile.size;
    let mut html = begin(&format!("{} {height}x{width}, {}", profile.network, profile.precision));
    for note in &profile.notes {
        let _ = writeln!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    let _ = writeln!(html, "<p class=\"note\">Tiles: {}.</p>", escape(&profile.tiles_by));
    html += "<h2>Cards</h2>\n<table><tr><th class=\"n\">card</th><th>batch</th><th>launches</th><th>predicted bound, µs</th>\
             <th>images/s</th></tr>\n";
    for (index, card) in profile.cards.iter().enumerate() {
        for batch in &profile.batches {
            let total = &batch.predicted[index];
            let _ = writeln!(
                html,
                "<tr title=\"{}\"><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{:.1}</td><td>{:.0}</td></tr>",
                escape(&card.source),
                escape(&card.name),
                batch.batch,
                batch.launches.len(),
                total.bound_microseconds,
                total.fps
            );
        }
    }
    html += "</table>\n";
    for batch in &profile.batches {
        if let Some(measured) = batch.measured {
            let _ = writeln!(html, "<p>Measured, batch {}: {measured:.1} µs.</p>", batch.batch);
        }
    }
    let first = profile.batches.first();
    for (index, card) in profile.cards.iter().enumerate() {
        let Some(batch) = first else { break };
        let open = if index == 0 { " open" } else { "" };
        let _ =
            writeln!(html, "<details{open}><summary><b>{}, batch {}</b></summary>", escape(&card.name), batch.batch);
        html += &roofline(profile, batch, index, card)?;
        let _ = writeln!(html, "<pre>{}</pre></details>", escape(&rooms_table(batch, index)));
    }
    if let Some(batch) = first {
        html += &kernels(profile, batch);
    }
    html += "</body></html>\n";
    Ok(html)
}

fn roofline(profile: &Profile, batch: &Batch, index: usize, card: &Card) -> Result<String, String> {
    let precision = Precision::ALL.into_iter().find(|p| p.name() == profile.precision).unwrap_or(Precision::Bf16);
    let roof = Roof {
        name: card.name.clone(),
        flops: card.tflops(precision) * 1e12,
        bandwidth: card.memory_gbs * 1e9,
        cache: Some(card.l2_gbs * 1e9),
        achievable: Some([achievable().tensor, achievable().memory]),
    };
    // A measured time where there is one: only one card can have been measured.
    let dots: Vec<Dot> = batch.launches.iter().map(|row| dot(row, &row.cards[index])).collect();
    let what = if batch.measured.is_some() { "measured" } else { "predicted bounds" };
    plot(&format!("{}, {}, batch {}: {what}", roof.name, profile.precision, batch.batch), &roof, &dots)
}

fn dot(row: &Row, on: &OnCard) -> Dot {
    let bound = on.bound.microseconds;
    let time = row.measured.map_or(String::new(), |time| format!(", measured {time:.2} µs"));
    Dot {
        room: row.room.clone(),
        title: format!(
            "{} ({}): predicted bound {bound:.2} µs by {}{time}",
            row.node,
            row.kernel,
            on.bound.limit.name()
        ),
        flops: row.flops as f64,
        bytes: row.bytes as f64,
        seconds: row.measured.unwrap_or(bound) / 1e6,
    }
}

/// Every launch, with its bound on each card.
fn kernels(profile: &Profile, batch: &Batch) -> String {
    let mut html = format!(
        "<h2>Launches, batch {}</h2>\n<div class=\"wide\"><table><tr><th>#</th><th class=\"n\">node</th><th class=\"n\">kernel</th>\
         <th>MFLOP</th><th>kB</th><th>kB through L2</th><th>grid</th><th>threads</th><th>shared</th><th>registers</th>\
         <th>sectors a request</th><th>bank conflicts</th><th>measured µs</th>",
        batch.batch
    );
    for card in &profile.cards {
        let _ = write!(
            html,
            "<th>{} µs</th><th class=\"n\">limit</th><th>occupancy</th><th>waves</th>",
            escape(&card.name)
        );
    }
    html += "</tr>\n";
    for (number, row) in batch.launches.iter().enumerate() {
        let dash = || "–".to_owned();
        let mut registers: Vec<String> = row.cards.iter().filter_map(|on| Some(on.registers?.to_string())).collect();
        registers.dedup();
        let registers = if registers.is_empty() { "unknown".to_owned() } else { registers.join("/") };
        let [x, y, z] = row.grid;
        let conflicts = row.counters.map(|c| 100.0 * c.bank_conflicts / c.waves.max(1.0));
        let _ = write!(
            html,
            "<tr><td>{number}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{:.2}</td><td>{:.1}</td><td>{:.1}</td>\
             <td>{x}×{y}×{z}</td><td>{}</td><td>{}</td><td>{registers}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(&row.node),
            escape(&row.kernel),
            row.flops as f64 / 1e6,
            row.bytes as f64 / 1e3,
            row.traffic as f64 / 1e3,
            row.threads,
            row.shared_bytes,
            row.counters.map_or_else(dash, |c| format!("{:.2}", c.sectors_per_request())),
            conflicts.map_or_else(dash, |share| format!("{share:.0} %")),
            row.measured.map_or_else(dash, |time| format!("{time:.2}"))
        );
        for on in &row.cards {
            let bound = &on.bound;
            let _ = write!(
                html,
                "<td>{:.2}</td><td class=\"n\">{}</td><td>{:.0} %</td><td>{:.2}</td>",
                bound.microseconds,
                bound.limit.name(),
                100.0 * bound.occupancy,
                bound.waves
            );
        }
        html += "</tr>\n";
    }
    html + "</table></div>\n"
}

/// The page of a profile on this CPU.
///
/// # Errors
/// What the plotting library says.
pub fn cpu_page(profile: &CpuProfile, memory_gbs: f64) -> Result<String, String> {
    let input: Vec<String> = profile.input.iter().map(ToString::to_string).collect();
    let title = format!("{} {}, {} on this CPU", profile.network, input.join("x"), profile.precision);
    let (roof, dots) = profile.roofline(memory_gbs);
    let mut html = begin(&title);
    let _ = writeln!(
        html,
        "<p class=\"note\">Measured: medians of {} runs on {} thread(s), {}. Roofs are measured too: a loop on registers, and reading \
         memory.</p>\n{}<pre>{}</pre></body></html>",
        profile.runs,
        profile.threads,
        profile.isa,
        plot(&roof.name, &roof, &dots)?,
        escape(&profile.table(usize::MAX))
    );
    Ok(html)
}
