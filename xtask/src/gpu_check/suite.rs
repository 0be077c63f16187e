//! The tests: built once, then run on a device by their own programs, so that each result has a name even where a run is stopped.

use super::{
    process::{Outcome, run},
    report::{Status, TestResult, Tests},
};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Programs of `segface-tests` with tests on a device, and which of their tests those are, by a part of the name. The first
/// holds nothing else.
pub(super) const PROGRAMS: [(&str, &[&str]); 5] = [
    ("cuda", &[]),
    ("attention", &["on_a_device"]),
    ("mask_head", &["on_a_device"]),
    ("mlp_fusion", &["on_a_device"]),
    ("token_attention", &["on_a_device"]),
];

/// For a dry run: tests of `cuda` that take seconds on a virtual device, and only the first so many programs.
const FEW: [&str; 2] = ["layer_norm::", "squeeze_excite::"];
const FEW_PROGRAMS: usize = 4;

/// Test programs as cargo says it built them: name and file.
pub(super) fn programs(messages: &[String]) -> Vec<(String, PathBuf)> {
    let messages = messages.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["reason"] == "compiler-artifact" && message["profile"]["test"] == true)
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?;
            Some((name.to_owned(), message["executable"].as_str()?.into()))
        })
        .collect()
}

/// Runs the programs with `environment` and returns the results and how it went.
pub(super) fn execute(
    programs: &[(String, PathBuf)],
    environment: &[(String, std::ffi::OsString)],
    few: bool,
    limit: Duration,
) -> (Tests, Status) {
    let end = Instant::now() + limit;
    let mut tests = Tests::new();
    let mut worst = Status::Passed;
    for (name, filters) in PROGRAMS.into_iter().take(if few { FEW_PROGRAMS } else { PROGRAMS.len() }) {
        let Some((_, file)) = programs.iter().find(|(found, _)| found == name) else {
            worst = Status::Failed(format!("cargo built no test program {name}"));
            continue;
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            worst = Status::TimedOut(format!("{name} was not reached within {:.0} s", limit.as_secs_f64()));
            break;
        }
        let filters = if few && filters.is_empty() { &FEW[..] } else { filters };
        let program = |more: &[&str], limit| {
            let mut command = Command::new(file);
            command.args(filters).args(more).envs(environment.iter().map(|(name, value)| (name, value)));
            run(&mut command, limit)
        };
        // A test is named by its program when it is over: of a program that is stopped or dies, the rest must be known before.
        let mut found = listed(&program(&["--list"], left).lines);
        let outcome = program(&[], end.saturating_duration_since(Instant::now()));
        let status = judged(name, &outcome);
        found.extend(parse(&outcome.lines));
        if found.is_empty() && status == Status::Passed {
            worst = Status::Failed(format!("{name} ran no test: {filters:?} name none"));
        }
        tests.extend(found.into_iter().map(|(test, result)| (format!("{name}::{test}"), result)));
        if status != Status::Passed {
            worst = status;
        }
    }
    (tests, worst)
}

fn judged(name: &str, outcome: &Outcome) -> Status {
    let failed = parse(&outcome.lines).values().filter(|test| test.result == "FAILED").count();
    match Status::of(outcome) {
        Status::Failed(_) if failed > 0 => Status::Failed(format!("{failed} test(s) of {name} failed")),
        Status::Failed(reason) => Status::Failed(format!("{name}: {reason}")),
        Status::TimedOut(reason) => Status::TimedOut(format!("{name} was {reason}")),
        other => other,
    }
}

/// The tests that a program lists, none of which has ended.
fn listed(lines: &[String]) -> Tests {
    let names = lines.iter().filter_map(|line| line.strip_suffix(": test"));
    names.map(|name| (name.to_owned(), TestResult { result: "unfinished".into(), message: String::new() })).collect()
}

/// Results among what a test program printed.
pub(super) fn parse(lines: &[String]) -> Tests {
    let mut tests = Tests::new();
    let mut speaking: Option<String> = None;
    for line in lines {
        if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, result)) = rest.rsplit_once(" ... ")
            && let Some(result) = result.split([' ', ',']).next()
        {
            // `test name - should panic ... ok`
            let name = name.split(" - ").next().unwrap_or(name);
            let result = if result.is_empty() { "unfinished" } else { result };
            tests.insert(name.to_owned(), TestResult { result: result.to_owned(), message: String::new() });
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            speaking = Some(name.to_owned());
        } else if line.starts_with("failures:") || line.starts_with("test result:") {
            speaking = None;
        } else if let Some(test) = speaking.as_ref().and_then(|name| tests.get_mut(name))
            && test.message.len() < 2000
        {
            test.message += line;
            test.message.push('\n');
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn results_and_what_failing_tests_said_are_read() {
        let found = parse(&lines(
            "\nrunning 3 tests\ntest gemm::deep ... ok\ntest checked::inner ... ignored, run by another\n\
             test gemm::small ... FAILED\n\nfailures:\n\n---- gemm::small stdout ----\nthread 'gemm::small' panicked at x:\n\
             ours 1e-1\n\nfailures:\n    gemm::small\n\ntest result: FAILED. 1 passed; 1 failed\n",
        ));
        let results: Vec<_> = found.iter().map(|(name, test)| (name.as_str(), test.result.as_str())).collect();
        assert_eq!(results, [("checked::inner", "ignored"), ("gemm::deep", "ok"), ("gemm::small", "FAILED")]);
        assert!(found["gemm::small"].message.contains("ours 1e-1"));
        assert!(!found["gemm::small"].message.contains("failures"));
        assert_eq!(found["gemm::deep"].message, "");
    }

    #[test]
    fn programs_are_read_off_what_cargo_says() {
        let message = |name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}"}},"profile":{{"test":{test}}},"executable":"/t/{name}-1"}}"#
            )
        };
        let messages =
            lines(&[message("cuda", true), message("xtask", false), "{}".into(), "no json".into()].join("\n"));
        assert_eq!(programs(&messages), [("cuda".to_owned(), PathBuf::from("/t/cuda-1"))]);
    }

    #[cfg(unix)]
    #[test]
    fn tests_that_a_program_lists_and_does_not_end_are_unfinished() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("program");
        let script = "#!/bin/sh\ncase \"$*\" in *--list*) echo 'a::one: test'; echo 'a::two: test';;\n\
                      *) echo 'test a::one ... ok'; exit 9;; esac\n";
        std::fs::write(&file, script).expect("a script");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let all: Vec<_> = PROGRAMS.iter().map(|(name, _)| ((*name).to_owned(), file.clone())).collect();
        let (tests, status) = execute(&all, &[], false, Duration::from_secs(60));
        assert!(matches!(status, Status::Failed(_)), "{status:?}");
        assert_eq!((&*tests["cuda::a::one"].result, &*tests["cuda::a::two"].result), ("ok", "unfinished"));
    }

    #[cfg(unix)]
    #[test]
    fn a_program_without_results_is_no_success() {
        let all: Vec<_> = PROGRAMS.iter().map(|(name, _)| ((*name).to_owned(), PathBuf::from("true"))).collect();
        let (tests, status) = execute(&all, &[], false, Duration::from_secs(30));
        assert!(tests.is_empty() && matches!(status, Status::Failed(_)), "{status:?}");
        let (_, status) = execute(&all[1..], &[], false, Duration::from_secs(30));
        assert!(matches!(status, Status::Failed(_)), "{status:?}");
    }
}
