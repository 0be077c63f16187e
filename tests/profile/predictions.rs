//! The command as a user runs it on a machine without a GPU.

use crate::finished::{json, stderr};
use serde_json::Value;
use std::process::{Command, Output};

fn profile(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_segface"));
    // A device that tests provide is of no use to predictions.
    command.env_remove("LD_LIBRARY_PATH").arg("profile").args(arguments).output().expect("the program starts")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

const SMALL: [&str; 9] =
    ["--device", "cuda", "--model", "random:mobilenet/celeb", "--size", "64", "--no-registers", "--precision", "bf16"];

#[test]
fn table_json_trace_and_page_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/profile");
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--card", "h100,A6000", "--batch", "1,8", "--measure", "0", "--out", out.to_str().unwrap()]);
    let run = profile(&arguments);
    assert!(run.status.success(), "{}", stderr(&run));
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.contains("predicted bound") && text.contains("not measurements"), "{text}");

    let profile = json(&out.join("profile.json"));
    let cards: Vec<&str> =
        profile["cards"].as_array().unwrap().iter().map(|card| card["name"].as_str().unwrap()).collect();
    let batches = profile["batches"].as_array().unwrap();
    assert_eq!(batches.iter().map(|batch| &batch["batch"]).collect::<Vec<_>>(), [&Value::from(1), &Value::from(8)]);
    let events = json(&out.join("trace.json"))["traceEvents"].as_array().unwrap().clone();
    for (process, batch) in batches.iter().enumerate() {
        let launches = batch["launches"].as_array().unwrap();
        assert!(launches.iter().all(|launch| launch["measured"].is_null()), "nothing was asked to be measured");
        for (index, card) in cards.iter().enumerate() {
            let total = &batch["predicted"][index];
            assert_eq!(total["card"], *card);
            let bound = number(&total["bound_microseconds"]);
            let sum: f64 = launches.iter().map(|launch| number(&launch["cards"][index]["microseconds"])).sum();
            assert!((bound - sum).abs() < 1e-6 * bound, "{card}: {bound} is not the sum {sum}");
            assert!(
                (number(&total["fps"]) - number(&batch["batch"]) * 1e6 / bound).abs() < 1e-6 * number(&total["fps"])
            );
            // The trace's lane ends where the bound says.
            let lane =
                events.iter().filter(|event| event["ph"] == "X" && event["pid"] == process && event["tid"] == index);
            let end = lane.map(|event| number(&event["ts"]) + number(&event["dur"])).fold(0.0, f64::max);
            assert!((end - bound).abs() < 1e-6 * bound, "{card}: the trace ends at {end}, the bound is {bound}");
        }
    }
    // An H100's L2 holds this small network from one run to the next, all but the new image; the A6000's does not hold its weights.
    let launches = batches[0]["launches"].as_array().unwrap();
    let memory = |card: usize| -> Vec<f64> {
        launches.iter().map(|launch| number(&launch["cards"][card]["memory_bytes"])).collect()
    };
    assert_eq!(memory(0)[0], 64.0 * 64.0 * 3.0 * 2.0);
    assert_eq!(memory(0)[1..].iter().sum::<f64>(), 0.0);
    assert!(memory(1).iter().sum::<f64>() > 5e6, "{:?}", memory(1));

    let page = std::fs::read_to_string(out.join("profile.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), cards.len());
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("<link"), "nothing is fetched");
    let first = &batches[0]["launches"].as_array().unwrap()[0];
    assert!(page.contains(first["kernel"].as_str().unwrap()));
}

/// What the networks are to reach, as predicted without counters. That is a bound, not a speed: no card has run them.
#[test]
fn goals_on_an_h100_are_met_by_the_predicted_bound() {
    for (network, frames, launches) in [("mobilenet", 2000.0, 80), ("swin_base", 400.0, 130)] {
        let folder = tempfile::tempdir().unwrap();
        let model = format!("random:{network}/celeb");
        let run = profile(&[
            "--device",
            "cuda",
            "--model",
            &model,
            "--size",
            "512",
            "--precision",
            "bf16",
            "--no-registers",
            "--card",
            "h100",
            "--batch",
            "1",
            "--measure",
            "0",
            "--out",
            folder.path().to_str().unwrap(),
        ]);
        assert!(run.status.success(), "{}", stderr(&run));
        let batch = &json(&folder.path().join("profile.json"))["batches"][0];
        let predicted = number(&batch["predicted"][0]["fps"]);
        assert!(predicted >= frames, "{network}: {predicted:.0} images/s predicted, {frames} are the goal");
        let count = batch["launches"].as_array().unwrap().len();
        assert!(count <= launches, "{network}: {count} launches, {launches} are allowed");
    }
}

#[test]
fn counters_of_a_report_refine_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    let mut arguments = SMALL.to_vec();
    arguments.extend(["--card", "h100", "--batch", "1", "--measure", "0", "--out"]);
    let run = profile(&[&arguments[..], &[plain.to_str().unwrap()]].concat());
    assert!(run.status.success(), "{}", stderr(&run));
    let before = json(&plain.join("profile.json"));
    let launch = &before["batches"][0]["launches"][0];
    let blocks: u64 = launch["grid"].as_array().unwrap().iter().map(|side| side.as_u64().unwrap()).product();
    // So many instructions that issuing them takes a second.
    let report = serde_json::json!({ "findings": [], "kernels": [{
        "kernel": launch["kernel"], "blocks": 2 * blocks,
        "total": { "instructions": 2e6 * 132.0 * 4.0 * 1830.0, "requests": 100, "sectors": 400 },
    }] });
    let file = folder.path().join("report.json");
    std::fs::write(&file, report.to_string()).unwrap();
    let counted = folder.path().join("counted");
    let run = profile(&[&arguments[..], &[counted.to_str().unwrap(), "--counters", file.to_str().unwrap()]].concat());
    assert!(run.status.success(), "{}", stderr(&run));
    let after = json(&counted.join("profile.json"));
    let launch = &after["batches"][0]["launches"][0];
    assert_eq!(launch["cards"][0]["limit"], "issue");
    assert!(number(&launch["cards"][0]["microseconds"]) > 1e6);
    assert_eq!(number(&launch["counters"]["sectors"]), 200.0);
    // The others' are what they were.
    assert_eq!(before["batches"][0]["launches"][2], after["batches"][0]["launches"][2]);
    assert!(String::from_utf8_lossy(&run.stdout).contains("sect/rq"));
}

#[test]
fn the_cpu_is_measured_call_by_call() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let run = profile(&[
        "--device",
        "cpu",
        "--model",
        "random:mobilenet/celeb",
        "--size",
        "64",
        "--precision",
        "f32",
        "--threads",
        "1",
        "--batch",
        "1",
        "--measure",
        "2",
        "--out",
        out,
    ]);
    assert!(run.status.success(), "{}", stderr(&run));
    let profile = json(&folder.path().join("profile.json"));
    let calls = profile["calls"].as_array().unwrap();
    assert!(calls.len() > 40 && calls.iter().all(|call| number(&call["milliseconds"]) > 0.0));
    assert!(number(&profile["peak_gflops"]) > 1.0);
    let page = std::fs::read_to_string(folder.path().join("profile.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Measured"));
    assert!(!json(&folder.path().join("trace.json"))["traceEvents"].as_array().unwrap().is_empty());
}

#[test]
fn wrong_arguments_are_told_with_what_is_right() {
    let small = |more: &[&str]| profile(&[&SMALL[..], more].concat());
    let run = small(&["--card", "gtx480"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(stderr(&run).contains("gtx480") && stderr(&run).contains("RTX 4090"), "{}", stderr(&run));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let run = small(&["--out", file.join("below").to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("below"), "{}", stderr(&run));

    let run = small(&["--card", "h100", "--batch", "1", "--counters", file.to_str().unwrap()]);
    assert_eq!(run.status.code(), Some(1));
    assert!(stderr(&run).contains("no report of ptxvm"), "{}", stderr(&run));

    assert_eq!(small(&["--batch", "0"]).status.code(), Some(2));
    let run = Command::new(env!("CARGO_BIN_EXE_segface")).args(["tune", "--device", "cpu"]).output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(stderr(&run), "error: there is nothing to tune on the CPU; use `--device cuda`\n");
}
