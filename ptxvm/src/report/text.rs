//! A finding as text, in the manner of a compiler's diagnostics.

use super::{Finding, Shrunk, Spot};
use std::fmt::Write;

const RED: &str = "\x1b[1;31m";
const BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// The text of a finding; with `colours`, for a terminal.
pub fn render(finding: &Finding, colours: bool) -> String {
    let paint = |colour: &str, text: &str| if colours { format!("{colour}{text}{PLAIN}") } else { text.to_owned() };
    let spots: Vec<&Spot> = std::iter::once(&finding.at).chain(finding.other.as_ref().map(|other| &other.at)).collect();
    let widest = spots.iter().flat_map(|spot| [spot.line, spot.source.as_ref().map_or(0, |source| source.1)]).max();
    let width = widest.unwrap_or(0).to_string().len().max(3);
    let bar = paint(BLUE, "|");
    let mut out = String::new();
    let head = paint(RED, &format!("ptxvm: {}", finding.kind));
    let _ = writeln!(out, "{head}: {}", paint(BOLD, &finding.message));
    let place = |out: &mut String, what: &str, spot: &Spot| {
        let arrow = paint(BLUE, "-->");
        let _ = writeln!(out, "{:width$}{arrow} {what}{}", "", describe(spot));
        if let Some((_, line)) = &spot.source
            && let Some(text) = &spot.source_text
        {
            let number = paint(BLUE, &format!("{line:>width$}"));
            let _ = writeln!(out, "{number} {bar} {text}");
        }
        if !spot.text.is_empty() {
            let number = paint(BLUE, &format!("{:>width$}", spot.line));
            let note = if spot.source.is_some() { "    // PTX" } else { "" };
            let _ = writeln!(out, "{number} {bar} {}{note}", spot.text);
        }
    };
    place(&mut out, "", &finding.at);
    if let Some(other) = &finding.other {
        place(&mut out, &format!("{} ", other.what), &other.at);
    }
    let equals = paint(BLUE, "=");
    if let Some(memory) = &finding.allocation {
        let _ = match memory.space.as_str() {
            "global" => {
                let offset = memory.address.wrapping_sub(memory.base);
                let place = match offset < memory.bytes {
                    true => format!("byte {offset} of"),
                    false if memory.address > memory.base => format!("{} bytes behind", offset - memory.bytes),
                    false => format!("{} bytes before", memory.base - memory.address),
                };
                let label = if memory.label.is_empty() { String::new() } else { format!(", made by {}", memory.label) };
                writeln!(
                    out,
                    "{:width$} {equals} memory: {place} the {} bytes at {:#x}{label}",
                    "", memory.bytes, memory.base
                )
            }
            space => writeln!(out, "{:width$} {equals} memory: byte {} of {space} memory", "", memory.address),
        };
    }
    if let Some(seed) = finding.seed {
        let _ = writeln!(out, "{:width$} {equals} replay: PTXVM_SEED={seed}", "");
    }
    if let Some(shrunk) = &finding.shrunk {
        let _ = writeln!(out, "{:width$} {equals} {}", "", describe_shrunk(shrunk));
    }
    out
}

/// `shrunk: 2 of 64 blocks are enough, 0 and 3, with seed 7; so is a grid of 2,1,1`.
pub(super) fn describe_shrunk(shrunk: &Shrunk) -> String {
    const MOST: usize = 8;
    let list: Vec<String> = shrunk.numbers.iter().take(MOST).map(u64::to_string).collect();
    let more = if shrunk.numbers.len() > MOST { ", …" } else { "" };
    let seed = shrunk.seed.map_or_else(|| "without a seed".to_owned(), |seed| format!("with seed {seed}"));
    let (count, list) = (shrunk.numbers.len(), list.join(", "));
    let mut text = match (count as u64 == shrunk.of, count) {
        (true, _) => format!("shrunk: takes all {count} blocks, {seed}"),
        (_, 1) => format!("shrunk: block {list} of {} is enough, {seed}", shrunk.of),
        _ => format!("shrunk: {count} of {} blocks are enough, {list}{more}, {seed}", shrunk.of),
    };
    if let Some([x, y, z]) = shrunk.grid {
        let _ = write!(text, "; so is a grid of {x},{y},{z}");
    }
    text
}

pub(super) fn describe(spot: &Spot) -> String {
    if spot.kernel.is_empty() {
        return if spot.label.is_empty() { "the host".to_owned() } else { spot.label.clone() };
    }
    let mut text = match &spot.source {
        Some((file, line)) => format!("{file}:{line}, "),
        None if spot.line > 0 => format!("PTX line {}, ", spot.line),
        None => String::new(),
    };
    let _ = write!(text, "kernel {}", spot.kernel);
    if !spot.function.is_empty() && spot.function != spot.kernel {
        let _ = write!(text, ", function {}", spot.function);
    }
    let [bx, by, bz] = spot.block;
    let [tx, ty, tz] = spot.thread;
    let _ = match spot.several_blocks {
        true => write!(text, ", several blocks"),
        false => write!(text, ", block ({bx},{by},{bz}), thread ({tx},{ty},{tz})"),
    };
    if !spot.label.is_empty() {
        let _ = write!(text, " [{}]", spot.label);
    }
    text
}
