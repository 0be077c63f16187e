//! A process per healthy program and per mutant, and what their reports say.

use std::{
    collections::HashMap,
    process::{Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use ptxvm_suite::mutants::{Edit, Mode, Mutant, table};
use serde_json::Value;

/// How a process ended and what it reported.
#[derive(Clone)]
pub(crate) struct State {
    /// The report, `null` if none was written.
    pub(crate) report: Value,
    /// Whether it ended well.
    pub(crate) success: bool,
    /// Its standard error, or what happened to it.
    pub(crate) errors: String,
}

/// A mutant that takes longer is not found but hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs the mutant, or its healthy program, in a process of its own.
pub(crate) fn state_of(mutant: &Mutant, mutated: bool) -> State {
    state_with(mutant, mutated, &[])
}

/// As [`state_of`], with more variables of the environment.
pub(crate) fn state_with(mutant: &Mutant, mutated: bool, variables: &[(&str, &str)]) -> State {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("report.json");
    let errors = folder.path().join("errors.txt");
    let mode = match mutant.mode {
        Mode::Checked => "checked",
        Mode::Profile => "profile",
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_ptxvm-suite-mutant"))
        .args([mutant.name, if mutated { "mutated" } else { "healthy" }])
        .env("PTXVM_MODE", mode)
        .env("PTXVM_SEED", "7")
        .env("PTXVM_REPORT", &path)
        .env("PTXVM_THREADS", "1")
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("the mutant's process starts");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the process can be waited for") {
            break Some(status);
        }
        if start.elapsed() > LIMIT {
            child.kill().expect("the process can be ended");
            child.wait().expect("the process can be waited for");
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let mut errors = std::fs::read_to_string(&errors).unwrap_or_default();
    if status.is_none() {
        errors.push_str("\n(ended after two minutes)");
    }
    let report = std::fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    State { report: report.unwrap_or(Value::Null), success: status.is_some_and(|s| s.success()), errors }
}

/// The healthy program's state; it is run once for all mutants of it.
fn healthy_state(mutant: &Mutant) -> State {
    static KNOWN: Mutex<Option<HashMap<(&str, Mode), State>>> = Mutex::new(None);
    let key = (mutant.scenario.name, mutant.mode);
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    known.get_or_insert_with(HashMap::new).entry(key).or_insert_with(|| state_of(mutant, false)).clone()
}

fn kinds(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    findings.iter().map(|finding| finding["kind"].as_str().unwrap_or("a finding without a kind").to_owned()).collect()
}

/// A counter of the profile, over all kernels.
fn counter(report: &Value, name: &str) -> u64 {
    let kernels = report["kernels"].as_array().map(Vec::as_slice).unwrap_or_default();
    kernels.iter().filter_map(|kernel| kernel["total"][name].as_u64()).sum()
}

/// What is wrong with how a mutant fared, if anything.
fn verdict(mutant: &Mutant) -> Result<(), String> {
    let healthy = healthy_state(mutant);
    if healthy.report.is_null() {
        return Err(format!("the healthy program wrote no report: {}", healthy.errors));
    }
    if !healthy.success {
        return Err(format!("the healthy program failed: {}", healthy.errors));
    }
    let found = kinds(&healthy.report);
    if !found.is_empty() {
        let first = &healthy.report["findings"][0];
        return Err(format!("the healthy program was blamed for {found:?}: {first}"));
    }
    let mutated = state_of(mutant, true);
    if mutated.report.is_null() {
        return Err(format!("no report: {}", mutated.errors));
    }
    match mutant.mode {
        Mode::Checked => {
            let found = kinds(&mutated.report);
            if found.iter().any(|kind| kind == mutant.expected) {
                return Ok(());
            }
            Err(format!("expected {}, found {found:?}; {}", mutant.expected, mutated.errors))
        }
        Mode::Profile => {
            // Shared memory serves a request in as many waves as its fullest bank has words.
            let name = if mutant.expected == "bank-conflicts" { "waves" } else { mutant.expected };
            let (before, after) = (counter(&healthy.report, name), counter(&mutated.report, name));
            // A fifth more is no accident of the schedule: these counters do not depend on it.
            if after > before + before / 5 {
                return Ok(());
            }
            Err(format!("{name} was {before} and is {after}; {}", mutated.errors))
        }
    }
}

/// Runs all mutants of one kind and fails with the list of those that were missed.
pub(crate) fn check_all(kind: &str) {
    let mut missed = Vec::new();
    for mutant in table().iter().filter(|mutant| mutant.expected == kind) {
        let edit = match mutant.edit {
            Edit::Source(from, to) => format!("{from:?} became {to:?}"),
            Edit::Host(what) => what.to_owned(),
        };
        match verdict(mutant) {
            Ok(()) => println!("{kind:22} {:42} caught", mutant.name),
            Err(why) => {
                println!("{kind:22} {:42} MISSED", mutant.name);
                missed.push(format!("{} ({edit}): {why}", mutant.name));
            }
        }
    }
    assert!(missed.is_empty(), "{} mutants of {kind} were missed:\n{}", missed.len(), missed.join("\n"));
}
