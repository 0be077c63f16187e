//! What is handed back: phases, tests, and the records that programs printed.

use super::process::Outcome;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How a phase went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Passed,
    Failed(String),
    TimedOut(String),
    /// Not run, and why.
    Skipped(String),
}

impl Status {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed(_) => "failed",
            Status::TimedOut(_) => "timed out",
            Status::Skipped(_) => "skipped",
        }
    }

    fn reason(&self) -> &str {
        match self {
            Status::Passed => "",
            Status::Failed(reason) | Status::TimedOut(reason) | Status::Skipped(reason) => reason,
        }
    }

    /// The status of a program that is a phase by itself.
    pub(super) fn of(outcome: &Outcome) -> Status {
        match (&outcome.end, outcome.problem()) {
            (super::process::End::TimedOut(_), Some(reason)) => Status::TimedOut(reason),
            (_, Some(reason)) => Status::Failed(reason),
            (_, None) => Status::Passed,
        }
    }
}

/// A phase that is over.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) status: Status,
    pub(super) seconds: f64,
    pub(super) limit: f64,
    /// What was done, in a few words.
    pub(super) note: String,
}

/// One test of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TestResult {
    /// `ok`, `FAILED`, `ignored`, or `unfinished` where its program was stopped or died.
    pub(super) result: String,
    /// What it said when it failed.
    pub(super) message: String,
}

/// Tests by program and name.
pub(super) type Tests = BTreeMap<String, TestResult>;

/// Everything.
pub(super) struct Report {
    begin: Instant,
    /// Name and value, in the order of the page.
    pub(super) machine: Vec<(String, String)>,
    pub(super) virtual_device: bool,
    pub(super) phases: Vec<Phase>,
    /// Tests on the device, and on ptxvm.
    pub(super) suites: [Tests; 2],
    pub(super) records: Vec<Value>,
}

impl Report {
    pub(super) fn new(virtual_device: bool) -> Self {
        Self {
            begin: Instant::now(),
            machine: Vec::new(),
            virtual_device,
            phases: Vec::new(),
            suites: Default::default(),
            records: Vec::new(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// A line of progress.
    pub(super) fn say(&self, text: &str) {
        eprintln!("[{:>4.0} s] {text}", self.elapsed().as_secs_f64());
    }

    pub(super) fn machine(&mut self, name: &str, value: impl Into<String>) {
        self.machine.push((name.to_owned(), value.into()));
    }

    /// Notes that a phase, begun at `begin`, is over.
    pub(super) fn close(
        &mut self,
        name: &str,
        begin: Instant,
        limit: Duration,
        status: Status,
        note: impl Into<String>,
    ) {
        let (seconds, note) = (begin.elapsed().as_secs_f64(), note.into());
        let reason = status.reason().lines().next().unwrap_or("").to_owned();
        let more = [note.as_str(), &reason].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        self.say(&format!("{name}: {}{}{more}", status.name(), if more.is_empty() { "" } else { ": " }));
        self.phases.push(Phase { name: name.to_owned(), status, seconds, limit: limit.as_secs_f64(), note });
    }

    pub(super) fn skip(&mut self, name: &str, reason: &str) {
        self.close(name, Instant::now(), Duration::ZERO, Status::Skipped(reason.to_owned()), "");
    }

    /// Takes the records among `lines`; returns how many of `kind` there are.
    pub(super) fn take(&mut self, lines: &[String], kind: &str) -> usize {
        let records: Vec<Value> = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|value| value["record"].is_string())
            .collect();
        let count = records.iter().filter(|record| record["record"] == kind).count();
        self.records.extend(records);
        count
    }

    /// The records of one kind.
    pub(super) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |record| record["record"] == kind)
    }

    /// Tests whose result on the device is not that on ptxvm, where both have one: name and both results.
    pub(super) fn differing(&self) -> Vec<(&str, &str, &str)> {
        let [device, ptxvm] = &self.suites;
        device
            .iter()
            .filter_map(|(name, test)| Some((name.as_str(), test.result.as_str(), ptxvm.get(name)?.result.as_str())))
            .filter(|(_, ours, theirs)| ours != theirs)
            .collect()
    }

    /// Whether everything was run and found right.
    pub(super) fn passed(&self) -> bool {
        self.phases.iter().all(|phase| phase.status == Status::Passed)
    }

    /// `report.json`.
    pub(super) fn json(&self) -> Value {
        let tests = |tests: &Tests| -> Value {
            tests
                .iter()
                .map(|(name, test)| (name.clone(), json!({"result": test.result, "message": test.message})))
                .collect()
        };
        let phase = |phase: &Phase| {
            json!({
                "name": phase.name, "status": phase.status.name(), "reason": phase.status.reason(), "note": phase.note,
                "seconds": rounded(phase.seconds), "limit_seconds": rounded(phase.limit),
            })
        };
        json!({
            "passed": self.passed(),
            "virtual_device": self.virtual_device,
            "seconds": rounded(self.elapsed().as_secs_f64()),
            "machine": self.machine.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect::<Value>(),
            "phases": self.phases.iter().map(phase).collect::<Value>(),
            "tests": {"device": tests(&self.suites[0]), "ptxvm": tests(&self.suites[1])},
            "records": self.records,
        })
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}
