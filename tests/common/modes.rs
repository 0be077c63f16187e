//! Tests run again in another mode of ptxvm. The mode is chosen when the driver is loaded, so another process runs them. On a real
//! device that is one more run, without findings or counts.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// What the process ends with where there are findings.
const FINDINGS: i32 = 66;

/// Share of the usual number of random problems that is run in checked mode, which takes many times as long.
const SHARE: &str = "0.2";

/// Runs `test` of this test's own program in checked mode, on the first few of its random problems: no access out of bounds, no race,
/// no byte read that nobody wrote.
///
/// # Panics
/// With what it says, if it fails or there are findings.
pub fn assert_no_findings(test: &str) {
    let exit_code = FINDINGS.to_string();
    let environment = [("PTXVM_MODE", "checked"), ("PTXVM_EXIT_CODE", &exit_code), ("SEGFACE_CASES", SHARE)];
    run(test, &environment.map(|(name, value)| (name, value.to_owned())));
}

/// Runs `test` of this test's own program in profile mode, and returns what was counted of each kernel; `None` on a device that is
/// not ptxvm, which counts nothing.
///
/// # Panics
/// With what it says, if it fails; if ptxvm writes no report.
pub fn profile(test: &str) -> Option<Vec<Value>> {
    let name = format!("segface-{}-{}.json", std::process::id(), test.replace(':', "_"));
    let path: PathBuf = std::env::temp_dir().join(name);
    run(test, &[("PTXVM_MODE", "profile".into()), ("PTXVM_REPORT", path.display().to_string())]);
    let text = std::fs::read_to_string(&path);
    // Nothing is lost if it stays.
    let _ = std::fs::remove_file(&path);
    let text = match text {
        Ok(text) => text,
        // `cargo xtask test` sets this where it puts ptxvm in the driver's place.
        Err(_) if std::env::var_os("PTXVM_TEST_LIBRARY").is_none() => return None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    report["kernels"].as_array().cloned()
}

fn run(test: &str, environment: &[(&str, String)]) {
    let program = std::env::current_exe().expect("a test knows its program");
    let mut command = Command::new(program);
    command.args(["--include-ignored", "--exact", test]).envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().expect("the program of this test runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 passed"), "{test} was not run or failed, {}:\n{said}", output.status);
    assert!(output.status.success(), "{test} in {environment:?}, {}:\n{said}", output.status);
}
