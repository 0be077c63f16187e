//! Profiles as traces for Perfetto (ui.perfetto.dev) and chrome://tracing.

use super::{Batch, Profile};
use serde_json::{Value, json};

/// The trace: a process for each batch size; in it a thread for each card's predicted bound, and one for what was measured.
pub fn trace(profile: &Profile) -> Value {
    let mut events = Vec::new();
    for (process, batch) in profile.batches.iter().enumerate() {
        let name = format!("{} {}x{} batch {}", profile.network, profile.size[0], profile.size[1], batch.batch);
        events.push(metadata("process_name", process, 0, &name));
        for card in 0..batch.predicted.len() {
            let title = format!("predicted bound, {}", batch.predicted[card].card);
            lane(
                &mut events,
                batch,
                process,
                card,
                &title,
                &|index| batch.launches[index].cards[card].bound.microseconds,
                Some(card),
            );
        }
        if batch.measured.is_some() {
            let time = |index: usize| batch.launches[index].measured.unwrap_or(0.0);
            lane(&mut events, batch, process, batch.predicted.len(), "measured, each launch by itself", &time, None);
        }
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}

fn metadata(what: &str, process: usize, thread: usize, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } })
}

fn lane(
    events: &mut Vec<Value>,
    batch: &Batch,
    process: usize,
    thread: usize,
    title: &str,
    time: &dyn Fn(usize) -> f64,
    card: Option<usize>,
) {
    events.push(metadata("thread_name", process, thread, title));
    let mut begin = 0.0;
    for (index, row) in batch.launches.iter().enumerate() {
        let duration = time(index);
        let mut arguments = json!({ "kernel": row.kernel, "grid": row.grid, "flops": row.flops, "bytes": row.bytes });
        if let Some(card) = card {
            let on = &row.cards[card];
            arguments["limit"] = json!(on.bound.limit.name());
            arguments["registers"] = json!(on.registers);
            arguments["occupancy"] = json!(on.bound.occupancy);
        }
        events.push(json!({
            "ph": "X", "name": row.node, "cat": row.room, "pid": process, "tid": thread, "ts": begin, "dur": duration,
            "args": arguments,
        }));
        begin += duration;
    }
}
