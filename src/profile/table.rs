//! Profiles as text.

use super::{Batch, Profile, Row};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The `top` launches that take longest on card `card` (an index), the longest first, and what the rest and all take.
pub fn launches_table(batch: &Batch, card: usize, top: usize) -> String {
    let mut text = String::new();
    let name = batch.predicted.get(card).map_or("", |total| &total.card);
    let measured = batch.measured.is_some();
    let counted = batch.launches.iter().any(|row| row.counters.is_some());
    let _ = write!(
        text,
        "{:<20} {:<36} {:>9} {:>9} {:>7} {:>4} {:>6} {:>5} {:>6}",
        "kernel", "node", "MFLOP", "kB", "blocks", "reg", "smem", "occ", "waves"
    );
    if counted {
        let _ = write!(text, " {:>7} {:>6}", "sect/rq", "bank");
    }
    if measured {
        let _ = write!(text, " {:>9}", "measured");
    }
    let _ = writeln!(text, " {:>8}  limit ({name})", "bound µs");
    let mut rows: Vec<&Row> = batch.launches.iter().collect();
    let time = |row: &Row| row.cards[card].bound.microseconds;
    rows.sort_by(|a, b| time(b).total_cmp(&time(a)));
    for row in rows.iter().take(top) {
        let on = &row.cards[card];
        let blocks: u64 = row.grid.iter().map(|side| u64::from(*side)).product();
        let _ = write!(
            text,
            "{:<20} {:<36} {:>9.1} {:>9.1} {:>7} {:>4} {:>6} {:>4.0}% {:>6.2}",
            shortened(&row.room, 20),
            shortened(&row.node, 36),
            row.flops as f64 / 1e6,
            row.bytes as f64 / 1e3,
            blocks,
            on.registers.map_or("-".to_owned(), |registers| registers.to_string()),
            row.shared_bytes,
            100.0 * on.bound.occupancy,
            on.bound.waves
        );
        if counted {
            let none = || "-".to_owned();
            let sectors = row.counters.map_or_else(none, |c| format!("{:.2}", c.sectors_per_request()));
            let banks =
                row.counters.map_or_else(none, |c| format!("{:.0}%", 100.0 * c.bank_conflicts / c.waves.max(1.0)));
            let _ = write!(text, " {sectors:>7} {banks:>6}");
        }
        if measured {
            let _ = write!(text, " {:>9}", row.measured.map_or("-".to_owned(), |time| format!("{time:.2}")));
        }
        let _ = writeln!(text, " {:>8.2}  {}", time(row), on.bound.limit.name());
    }
    let (shown, all): (f64, f64) =
        (rows.iter().take(top).map(|row| time(row)).sum(), rows.iter().map(|row| time(row)).sum());
    if rows.len() > top {
        let _ = writeln!(text, "{} more take {:.1} µs", rows.len() - top, all - shown);
    }
    let measured = batch.measured.map_or(String::new(), |time| format!(", measured {time:.1} µs"));
    let _ = writeln!(text, "{} launches, predicted bound {all:.1} µs{measured}", rows.len());
    text
}

/// What kernels of each folder take on card `card`, and what limits them: microseconds by limit, the largest first.
pub fn rooms_table(batch: &Batch, card: usize) -> String {
    let mut rooms: BTreeMap<&str, (usize, f64, BTreeMap<&str, f64>)> = BTreeMap::new();
    for row in &batch.launches {
        let bound = &row.cards[card].bound;
        let (count, time, limits) = rooms.entry(&row.room).or_default();
        *count += 1;
        *time += bound.microseconds;
        *limits.entry(bound.limit.name()).or_default() += bound.microseconds;
    }
    let all: f64 = rooms.values().map(|(_, time, _)| time).sum();
    let mut rooms: Vec<_> = rooms.into_iter().collect();
    rooms.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut text = format!("{:<20} {:>8} {:>9} {:>6}  limits (µs)\n", "room", "launches", "bound µs", "share");
    for (room, (count, time, limits)) in rooms {
        let mut limits: Vec<_> = limits.into_iter().collect();
        limits.sort_by(|a, b| b.1.total_cmp(&a.1));
        let limits: Vec<String> = limits.into_iter().map(|(name, time)| format!("{name} {time:.1}")).collect();
        let _ = writeln!(text, "{room:<20} {count:>8} {time:>9.1} {:>5.1}%  {}", 100.0 * time / all, limits.join(", "));
    }
    text
}

/// Predicted bounds of all cards and batch sizes.
pub fn cards_table(profile: &Profile) -> String {
    let mut text =
        format!("{:<10} {:>6} {:>9} {:>18} {:>10}\n", "card", "batch", "launches", "predicted bound µs", "images/s");
    for (index, card) in profile.cards.iter().enumerate() {
        for batch in &profile.batches {
            let total = &batch.predicted[index];
            let _ = writeln!(
                text,
                "{:<10} {:>6} {:>9} {:>18.1} {:>10.0}",
                card.name,
                batch.batch,
                batch.launches.len(),
                total.bound_microseconds,
                total.fps
            );
        }
    }
    text
}

/// At most `width` characters: the end of a name says more than its beginning.
fn shortened(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        name.into()
    } else {
        format!("…{}", name.chars().skip(count - width + 1).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Counters, OnCard, Total};
    use super::*;
    use segface_codegen::cuda::bound::{Bound, Limit, Parts};
    use segface_codegen::cuda::card::Card;

    fn launch(room: &str, node: &str, microseconds: f64, limit: Limit) -> Row {
        let bound = Bound { microseconds, limit, waves: 0.97, occupancy: 0.25, parts: Parts::default() };
        Row {
            kernel: format!("{room}_0123abcd"),
            room: room.into(),
            node: node.into(),
            grid: [128, 2, 1],
            threads: 256,
            shared_bytes: 49152,
            flops: 268_435_456,
            bytes: 4_370_432,
            traffic: 8_000_000,
            cards: vec![OnCard { card: "H100".into(), registers: Some(96), resident: 2, memory_bytes: 0, bound }],
            counters: None,
            measured: None,
        }
    }

    fn profile() -> Profile {
        let launches = vec![
            launch("gemm", "backbone.0", 3.25, Limit::L2),
            launch("token_step", "transformer.token_step.0.with.a.name.that.is.long", 16.5, Limit::Barriers),
            launch("gemm", "backbone.1", 2.0, Limit::Launch),
        ];
        let total = Total { card: "H100".into(), bound_microseconds: 21.75, fps: 1e6 / 21.75 };
        Profile {
            network: "mobilenet/celeb".into(),
            size: [512, 512],
            precision: "bf16",
            tiles_by: "the cost model".into(),
            notes: Vec::new(),
            cards: vec![Card::default()],
            batches: vec![Batch { batch: 1, launches, predicted: vec![total], measured: None }],
        }
    }

    #[test]
    fn tables_of_a_prediction() {
        let profile = profile();
        let batch = &profile.batches[0];
        insta::assert_snapshot!("launches", launches_table(batch, 0, 2));
        insta::assert_snapshot!("rooms", rooms_table(batch, 0));
        insta::assert_snapshot!("cards", cards_table(&profile));
    }

    #[test]
    fn tables_of_what_was_counted_and_measured() {
        let mut profile = profile();
        let batch = &mut profile.batches[0];
        batch.measured = Some(30.5);
        batch.launches[0].measured = Some(4.125);
        batch.launches[0].cards[0].registers = None;
        let counters =
            Counters { requests: 100.0, sectors: 1600.0, waves: 50.0, bank_conflicts: 5.0, ..Counters::default() };
        batch.launches[0].counters = Some(counters);
        insta::assert_snapshot!("measured", launches_table(batch, 0, 9));
    }
}
