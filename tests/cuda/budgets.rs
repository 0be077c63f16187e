//! What every kernel costs in memory traffic, counted by ptxvm on the networks' operators: bytes of the sectors that are fetched for each
//! byte asked for, and the share of shared memory's waves that conflicts of banks add.
//!
//! Budgets are what layouts promise. Main loops copy with `cp.async` and read with `ldmatrix`, without a conflict and without a
//! sector in vain; whole kernels fetch less than they ask for, as lanes share what they read. Where more is allowed, the table
//! says why: mostly lines that the first cache serves, which ptxvm does not model. Measured in bf16 at 112 to 128 pixels:
//!
//! | room | fetched for a byte | conflicts |
//! |---|---|---|
//! | gemm | 0.54–0.99, MobileNet 1.07 | 0–0.066 |
//! | conv | 0.97–0.99, stems 2.7 | 0 |
//! | mlp_fusion, its projections | 0.52–0.65, 1.0 | 0 |
//! | patch_merge | 0.59–0.98 | 0–0.045 |
//! | window_attention | 0.72–0.97 | 0 |
//! | image_pass | 1.11–1.19 | 0 |
//! | token_pack, token_merge, token_step | 1.44, 1.05, 0.98–1.12 | 0 |
//! | mask_head, arg_max | 0.74–0.80, 7.9 | 0 |
//! | depthwise | 0.51–1.54 | 0, with channel sums 0.33 |
//! | layer_norm, squeeze_excite | 1.0–1.67, 1.01–1.09 | 0 |

use segface::engine::cuda::CudaEngine;
use segface::weights::seeded_values;
use segface_codegen::cuda::{compile_graph, kernels};
use segface_codegen::ir::{Graph, Node};
use segface_codegen::{Backbone, ModelSpec, Variant, plan::Precision};
use segface_tests::cuda::device;
use segface_tests::instances::{self, Case};
use segface_tests::modes::profile;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a room may cost.
struct Budget {
    rooms: &'static [&'static str],
    /// Bytes of sectors for each byte asked for, in a whole kernel.
    fetched: f64,
    /// Share of waves that conflicts add, in a whole kernel.
    conflicts: f64,
}

const BUDGETS: [Budget; 9] = [
    // Whole sectors, each read by one lane or by many.
    Budget {
        rooms: &["window_attention", "mlp", "mlp_fusion", "mlp_fusion_project", "mask_head"],
        fetched: 1.0,
        conflicts: 0.0,
    },
    // Epilogues of warps with 48 columns read their sums' rows across one another: once a tile.
    Budget { rooms: &["gemm", "patch_merge"], fetched: 1.0, conflicts: 1.0 / 12.0 },
    // A stem's pixels have three channels: single elements, from the first cache.
    Budget { rooms: &["conv"], fetched: 3.0, conflicts: 0.0 },
    // Tables of the encoding, γ and β, f32: a lane's 32 bytes are two requests, the second from the first cache.
    Budget { rooms: &["image_pass"], fetched: 1.25, conflicts: 0.0 },
    Budget { rooms: &["layer_norm"], fetched: 2.0, conflicts: 0.0 },
    // A lane has 16 bytes of a pixel, which may be half a sector. Channel sums, once a block: 32 bytes a lane, in two waves.
    Budget { rooms: &["depthwise"], fetched: 2.0, conflicts: 1.0 / 3.0 },
    // Rows of 19 logits, f32, read one by one: from the first cache, and only where a caller wants logits and labels.
    Budget { rooms: &["arg_max"], fetched: 8.0, conflicts: 0.0 },
    // A few rows, numbers between layers one by one.
    Budget { rooms: &["token_step", "squeeze_excite"], fetched: 1.25, conflicts: 0.0 },
    Budget { rooms: &["token_pack", "token_merge"], fetched: 1.5, conflicts: 0.0 },
];

/// Copies of rows that begin or end in the middle of a sector, which rows of an odd number of 8 channels do: of 24 channels, 48
/// bytes, two sectors.
const RAGGED: f64 = 4.0 / 3.0;

/// The operators of networks that have kernels of their own, each alone.
fn operators(networks: &[(Backbone, usize)], precision: Precision) -> Vec<Graph> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for &(backbone, side) in networks {
        let (spec, size) = (ModelSpec { backbone, variant: Variant::Celeb }, [1, side, side]);
        for network in [Case::usual(spec, size), Case::labels(spec, size)].map(|case| case.graph(precision)) {
            for node in &network.nodes {
                let graph = alone(&network, node, precision);
                let names: Vec<String> = kernels(&graph, precision, None).iter().map(instances::name).collect();
                if names.iter().any(|name| !seen.contains(name)) {
                    seen.extend(names);
                    found.push(graph);
                }
            }
        }
    }
    found
}

/// One operator on numbers of its operands' shapes.
fn alone(network: &Graph, node: &Node, precision: Precision) -> Graph {
    let numbers = node.inputs.iter().map(|(slot, value)| {
        let value = &network.values[value.0];
        (*slot, &*value.shape, seeded_values(&format!("{slot:?}"), value.len()))
    });
    let numbers: Vec<_> = numbers.collect();
    let operands: Vec<_> = numbers.iter().map(|(slot, shape, data)| (*slot, *shape, &**data)).collect();
    Graph::single(node.op, &operands, precision.dtype()).unwrap_or_else(|e| panic!("{}: {e}", node.name))
}

fn run_alone(networks: &[(Backbone, usize)]) {
    let model = ModelSpec { backbone: networks[0].0, variant: Variant::Celeb };
    for graph in operators(networks, Precision::Bf16) {
        let what = graph.nodes[0].op;
        let program = compile_graph(model, Precision::Bf16, graph);
        let mut engine = CudaEngine::new(Arc::new(program), device()).unwrap_or_else(|e| panic!("{what:?}: {e}"));
        engine.run(&[0.0]).unwrap_or_else(|e| panic!("{what:?}: {e}"));
    }
}

#[test]
#[ignore = "run in profile mode by the test beside it"]
fn run_whole_sectors() {
    run_alone(&[(Backbone::SwinBase, 112), (Backbone::SwinV2Tiny, 128), (Backbone::ConvNextTiny, 128)]);
}

#[test]
#[ignore = "run in profile mode by the test beside it"]
fn run_ragged() {
    run_alone(&[(Backbone::MobileNet, 128)]);
}

fn count(counters: &Value, name: &str) -> f64 {
    counters[name].as_u64().unwrap_or(0) as f64
}

/// What of a kernel's counts is beyond its budget. `rows` is what copies of rows may fetch for each byte.
fn beyond(kernel: &Value, rows: f64) -> Vec<String> {
    let name = kernel["kernel"].as_str().unwrap_or_default();
    let room = name.rsplit_once('_').map_or(name, |(room, _)| room);
    let Some(budget) = BUDGETS.iter().find(|budget| budget.rooms.contains(&room)) else {
        return vec![format!("{name}: a room without a budget")];
    };
    let mut found = Vec::new();
    let mut hold = |what: &str, value: f64, most: f64| {
        if value > most + 1e-9 {
            found.push(format!("{name}: {what} {value:.3}, at most {most:.3}"));
        }
    };
    let ratio = |a: f64, b: f64| if b == 0.0 { 0.0 } else { a / b };
    let fetched = |counters: &Value| {
        ratio(32.0 * count(counters, "sectors"), count(counters, "global_read") + count(counters, "global_written"))
    };
    let lines = kernel["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    // How often a block asks whether the others have come depends on how they are run.
    let waiting: Vec<&Value> = lines
        .iter()
        .filter(|line| line["place"].as_str().is_some_and(|place| place.starts_with("grid.cuh:")))
        .collect();
    let working =
        |name: &str| count(&kernel["total"], name) - waiting.iter().map(|line| count(line, name)).sum::<f64>();
    let all = ratio(32.0 * working("sectors"), working("global_read") + working("global_written"));
    hold("bytes fetched for each asked for", all, budget.fetched.max(rows));
    let total = &kernel["total"];
    hold("share of conflicts", ratio(count(total, "bank_conflicts"), count(total, "waves")), budget.conflicts);
    hold("bytes of local memory", count(total, "local_read") + count(total, "local_written"), 0.0);
    for line in lines {
        let text = line["text"].as_str().unwrap_or_default();
        if text.contains("cp.async.") || text.contains("ldmatrix.") {
            hold(&format!("conflicts of {text}"), count(line, "bank_conflicts"), 0.0);
            hold(&format!("bytes fetched by {text}"), fetched(line), rows);
        }
    }
    found
}

fn assert_within(test: &str, rows: f64) {
    let Some(kernels) = profile(test) else { return };
    let copying = kernels.iter().filter(|kernel| kernel["lines"].to_string().contains("cp.async.")).count();
    assert!(copying > 10, "{copying} kernels with copies: nothing was counted");
    for kernel in &kernels {
        let (name, total) = (kernel["kernel"].as_str().unwrap_or_default(), &kernel["total"]);
        println!("{name}\t{}\t{}\t{total}", kernel["sectors_per_request"], kernel["waves_per_request"]);
    }
    let found: Vec<String> = kernels.iter().flat_map(|kernel| beyond(kernel, rows)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn whole_sectors_without_conflicts() {
    assert_within("budgets::run_whole_sectors", 1.0);
}

#[test]
fn ragged_rows_fetch_a_third_more_at_most() {
    assert_within("budgets::run_ragged", RAGGED);
}

#[test]
fn what_is_beyond_a_budget_is_told() {
    let kernel = |total: Value, line: Value| json!({ "kernel": "mlp_01234567", "total": total, "lines": [line] });
    let total = json!({ "sectors": 16, "global_read": 512, "waves": 4 });
    let line = json!({ "text": "cp.async.cg.shared.global", "sectors": 16, "global_read": 512 });
    assert_eq!(beyond(&kernel(total.clone(), line.clone()), 1.0), Vec::<String>::new());
    let edited = |value: &Value, field: &str, number: u64| {
        let mut value = value.clone();
        value[field] = json!(number);
        value
    };
    for (field, number) in [("sectors", 17), ("bank_conflicts", 1), ("local_read", 4)] {
        assert_eq!(beyond(&kernel(edited(&total, field, number), line.clone()), 1.0).len(), 1, "{field}");
    }
    for (field, number) in [("sectors", 17), ("bank_conflicts", 1)] {
        assert_eq!(beyond(&kernel(total.clone(), edited(&line, field, number)), 1.0).len(), 1, "{field} of a line");
    }
    let unknown = json!({ "kernel": "new_01234567", "total": {}, "lines": [] });
    assert_eq!(beyond(&unknown, 1.0).len(), 1);
}
